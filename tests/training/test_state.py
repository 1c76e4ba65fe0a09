"""The state of a training: found by its inputs alone, held by one run, read or refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sigma.shared.errors import SigmaError
from sigma.training.state import Scratch, scratch_root

KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def test_a_state_comes_back_under_its_key_alone_and_goes_when_cleared(place):
    state = {"step": 3, "weights": {"a": torch.arange(4.0)}, "curve": [{"loss": 0.5}]}
    with Scratch.open(KEY) as scratch:
        assert scratch.load() is None
        scratch.save(state)
    with Scratch.open("f" + KEY[1:]) as other:
        assert other.load() is None
    with Scratch.open(KEY) as scratch:
        found = scratch.load()
        assert found["step"] == 3 and found["curve"] == state["curve"]
        assert torch.equal(found["weights"]["a"], state["weights"]["a"])
        scratch.clear()
    with Scratch.open(KEY) as scratch:
        assert scratch.load() is None
    assert not [file for file in place.rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_a_save_that_fails_keeps_the_last_state(place):
    with Scratch.open(KEY) as scratch:
        scratch.save({"step": 1})
        with pytest.raises(Exception, match="pickle"):
            scratch.save({"step": lambda: None})
        assert scratch.load() == {"step": 1}
        assert [file.name for file in scratch.folder.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_state_that_cannot_be_read_is_one_clear_line_and_never_a_silent_restart(content):
    with Scratch.open(KEY) as scratch:
        scratch.save({"weights": torch.zeros(1000)})
        whole = scratch.file.read_bytes()
        scratch.file.write_bytes(whole[: len(whole) // 2] if content is None else content)
        with pytest.raises(SigmaError, match="delete it to train from the start") as caught:
            scratch.load()
        assert str(scratch.file) in str(caught.value) and "\n" not in str(caught.value)


def same(one: dict, other: dict) -> bool:
    tensors = torch.equal(one.pop("weights"), other.pop("weights"))
    return tensors and one == other


def test_no_flipped_bit_of_a_state_passes_for_another_state():
    weights, curve = torch.arange(3000.0), [{"loss": 0.5, "step": 3.0}]
    source = np.random.default_rng(0)
    with Scratch.open(KEY) as scratch:
        scratch.save({"weights": weights, "curve": curve})
        whole = scratch.file.read_bytes()
        refused = 0
        for position in source.integers(0, len(whole), 400):
            altered = bytearray(whole)
            altered[position] ^= 1 << source.integers(8)
            scratch.file.write_bytes(altered)
            try:
                assert same(scratch.load(), {"weights": weights, "curve": curve}), position
            except SigmaError:
                refused += 1
    assert refused > 300, "nearly every byte of the file carries the state"


def test_a_payload_in_a_state_never_runs(tmp_path):
    from tests.policy.model.test_heads import Payload

    with Scratch.open(KEY) as scratch:
        scratch.save({"a": Payload(tmp_path / "ran")})
        with pytest.raises(SigmaError, match="not readable"):
            scratch.load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.processes
def test_a_second_run_on_the_same_inputs_is_refused_while_the_first_lives():
    code = (
        "from sigma.training.state import Scratch\nfrom sigma.shared.errors import SigmaError\n"
        f"try:\n    with Scratch.open({KEY!r}): print('free')\nexcept SigmaError as error: print(error)"
    )

    def second() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    with Scratch.open(KEY):
        assert "another run trains on the same inputs" in second()
    assert second() == "free\n"


def test_a_place_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(SigmaError, match=r"no place for checkpoints.*set SIGMA_SCRATCH"), Scratch.open(KEY):
        pass


@pytest.mark.dvc
def test_without_a_wish_the_state_lies_beside_dvcs_cache_or_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SIGMA_SCRATCH")
    monkeypatch.chdir(tmp_path)
    assert scratch_root() == Path(".sigma-scratch")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    assert scratch_root() == tmp_path / ".dvc" / "tmp" / "sigma-scratch"
