"""Files that would run code when they are unpickled, given to everything that reads such files."""

import io
import os
import pickle
from pathlib import Path

import pytest
import torch

from sigma.parameters.schema import read_yaml
from sigma.policy.model.tensors import read_tensors
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, read_table, read_torch
from sigma.training.state import Scratch


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def zipped(payload: Payload) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "payload": payload}, buffer)
    return buffer.getvalue()


def legacy(payload: Payload) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "payload": payload}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


FORMS = {
    "an archive": zipped,
    "the old form": legacy,
    "a bare pickle": lambda payload: pickle.dumps(payload, protocol=2),
    "a bare pickle of a later protocol": lambda payload: pickle.dumps(payload, protocol=5),
}


@pytest.fixture
def ran(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.mark.parametrize("form", FORMS)
def test_a_payload_is_one(form, ran):
    """The test of the tests: unpickled, each form does run."""
    content = io.BytesIO(FORMS[form](Payload(ran)))
    if form in ("an archive", "the old form"):
        torch.load(content, weights_only=False)
    else:
        pickle.load(content)
    assert ran.is_dir()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["heads.pt", "adapter_model.bin", "model.safetensors", "x.ckpt"])
def test_a_file_of_tensors_never_runs_it(form, name, ran, tmp_path):
    path = tmp_path / name
    path.write_bytes(FORMS[form](Payload(ran)))
    with pytest.raises(SigmaError, match="not a plain file of tensors") as caught:
        read_tensors(path)
    with pytest.raises(Exception):  # noqa: B017  (whatever torch raises)
        read_torch(path)
    assert "\n" not in str(caught.value) and not ran.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_trainings_state_never_runs_it(form, ran, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    with Scratch.open("a" * 64) as scratch:
        scratch.file.write_bytes(FORMS[form](Payload(ran)))
        with pytest.raises(SigmaError, match="not readable"):
            scratch.load()
    assert not ran.exists()


@pytest.mark.parametrize("form", FORMS)
def test_no_other_reader_runs_it_either(form, ran, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(FORMS[form](Payload(ran)))
    for read in (read_json, read_table, read_yaml):
        with pytest.raises(SigmaError):
            read(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.mkdir ['{}']", "!!python/name:os.mkdir ", "a: !!python/object/new:os.mkdir ['{}']"],
)
def test_yaml_makes_no_objects(text, ran, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text.format(ran))
    with pytest.raises(SigmaError, match="not valid YAML"):
        read_yaml(path)
    assert not ran.exists()
