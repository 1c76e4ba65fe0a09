"""Heads are loaded exactly or not at all, and their files are bytes that depend on them alone."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sigma.policy.model.heads import (
    FILE,
    SOURCE_FILE,
    TelepathyHeads,
    build_heads,
    describe_heads,
    load_heads,
    save_heads,
)
from sigma.shared.errors import SigmaError
from tests.worlds import tiny_sizes


@pytest.fixture
def folder(tmp_path):
    save_heads(build_heads(tiny_sizes(), 1.5, seed=0), tmp_path)
    return tmp_path


def empty() -> TelepathyHeads:
    return build_heads(tiny_sizes(), 1.0, seed=9)


@pytest.mark.parametrize("name", [FILE, SOURCE_FILE])
def test_both_forms_restore_every_tensor(folder, name):
    heads = empty()
    load_heads(heads, folder / name)
    expected = build_heads(tiny_sizes(), 1.5, seed=0).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in heads.state_dict().items())
    assert heads.state_encoder.token_rms.item() == 1.5


def test_the_files_bytes_depend_on_the_tensors_alone(folder, tmp_path_factory):
    again, other = tmp_path_factory.mktemp("again"), tmp_path_factory.mktemp("other")
    save_heads(build_heads(tiny_sizes(), 1.5, seed=0), again)
    save_heads(build_heads(tiny_sizes(), 1.5, seed=1), other)
    for name in (FILE, SOURCE_FILE):
        assert (folder / name).read_bytes() == (again / name).read_bytes()
        assert (folder / name).read_bytes() != (other / name).read_bytes()


def test_building_is_seeded_and_leaves_the_callers_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_heads(tiny_sizes(), 1.0, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def break_missing(tensors, name):
    del tensors[name]


def break_extra(tensors, name):
    tensors[name + "_more"] = torch.zeros(1)


def break_renamed(tensors, name):
    tensors[name.replace("logits", "scores")] = tensors.pop(name)


def break_shape(tensors, name):
    tensors[name] = torch.zeros(3)


def break_nan(tensors, name):
    tensors[name][0] = float("nan")


def break_type(tensors, name):
    tensors[name] = torch.zeros(2, dtype=torch.int64)


BROKEN = [
    (break_missing, r"tensor residuals\.mix\.logits is missing"),
    (break_extra, r"tensor residuals\.mix\.logits_more is unknown"),
    (break_renamed, r"tensor residuals\.mix\.logits is missing"),
    (break_shape, r"tensor residuals\.mix\.logits has shape \(3,\), expected \(2,\)"),
    (break_nan, r"tensor residuals\.mix\.logits holds a non-finite number"),
    (break_type, r"tensor residuals\.mix\.logits holds torch\.int64"),
]


@pytest.mark.parametrize("name", [FILE, SOURCE_FILE])
@pytest.mark.parametrize(("fault", "message"), BROKEN)
def test_a_tensor_that_does_not_fit_is_named(folder, name, fault, message):
    tensors = dict(load_file(folder / FILE))
    fault(tensors, "residuals.mix.logits")
    if name == FILE:
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    heads = empty()
    before = {key: tensor.clone() for key, tensor in heads.state_dict().items()}
    with pytest.raises(SigmaError, match=message) as caught:
        load_heads(heads, folder / name)
    assert name in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in heads.state_dict().items())


class Payload:
    """What a hostile file holds: unpickling it would create a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_a_payload_is_refused_and_never_runs(folder, tmp_path):
    target = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(target))).close()
    assert target.exists(), "the payload must work, or the test shows nothing"
    target.unlink()
    torch.save({"residuals.mix.logits": Payload(target)}, folder / SOURCE_FILE)
    with pytest.raises(SigmaError, match="not a plain file of tensors"):
        load_heads(empty(), folder / SOURCE_FILE)
    (folder / SOURCE_FILE).write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(SigmaError, match="not a plain file of tensors"):
        load_heads(empty(), folder / SOURCE_FILE)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x00" * 64])
@pytest.mark.parametrize("name", [FILE, SOURCE_FILE])
def test_an_unreadable_file_is_one_clear_line(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(SigmaError, match="not a plain file of tensors") as caught:
        load_heads(empty(), folder / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_that_holds_no_mapping_are_refused(folder):
    with pytest.raises(SigmaError, match=r"gone\.pt: not found"):
        load_heads(empty(), folder / "gone.pt")
    torch.save([torch.zeros(1)], folder / SOURCE_FILE)
    with pytest.raises(SigmaError, match="expected a mapping of names to tensors"):
        load_heads(empty(), folder / SOURCE_FILE)


def test_the_description_is_that_of_all_numbers_together():
    heads = build_heads(tiny_sizes(), 1.5, seed=0)
    found = describe_heads(heads)
    numbers = np.concatenate([tensor.double().numpy().ravel() for tensor in heads.state_dict().values()])
    assert found["tensors"] == len(heads.state_dict())
    expected = [numbers.mean(), numbers.std(), np.sqrt((numbers**2).mean())]
    np.testing.assert_allclose([found["mean"], found["std"], found["rms"]], expected, rtol=1e-9)
    with torch.no_grad():
        heads.film.log_gain[0] += 1e-3
    assert describe_heads(heads)["digest"] != found["digest"]
