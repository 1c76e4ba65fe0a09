"""Where the work runs is a matter of one section, checked before anything starts."""

import pytest
import torch

from sigma.compute.device import open_device
from sigma.parameters.machine import MachineParameters
from sigma.shared.errors import SigmaError

SETTINGS = dict(
    device="auto", threads=1, workers=1, backend="local", address=None, processes=1, fsdp=False, batch=8, compile=False
)


def machine(**changes) -> MachineParameters:
    return MachineParameters(**SETTINGS | changes)


def test_the_cpu_is_used_where_it_is_asked_for_or_nothing_else_is_there(monkeypatch):
    monkeypatch.delenv("SIGMA_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_device(machine()).type == open_device(machine(device="cpu")).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert open_device(machine()).type == "cuda" and open_device(machine(device="cpu")).type == "cpu"


def test_the_environment_decides_where_the_file_leaves_it_open(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("SIGMA_DEVICE", "cpu")
    assert open_device(machine()).type == "cpu"
    assert open_device(machine(device="cuda")).type == "cuda"
    monkeypatch.setenv("SIGMA_DEVICE", "tpu")
    with pytest.raises(SigmaError, match="SIGMA_DEVICE: found 'tpu'; legal: auto, cpu, cuda"):
        open_device(machine())


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.delenv("SIGMA_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SigmaError, match=r"machine\.device: cuda asked for.*legal: auto, cpu"):
        open_device(machine(device="cuda"))
    monkeypatch.setenv("SIGMA_DEVICE", "cuda")
    with pytest.raises(SigmaError, match="no CUDA device"):
        open_device(machine())


def test_threads_are_set(monkeypatch):
    before = torch.get_num_threads()
    try:
        open_device(machine(device="cpu", threads=2))
        assert torch.get_num_threads() == 2
        open_device(machine(device="cpu", threads=0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fsdp": True}, "fsdp: found true with one process; legal: false, or machine.processes of 2 and more"),
        ({"fsdp": True, "processes": 2, "compile": True}, "fsdp: found true with machine.compile true; legal: one"),
    ],
)
def test_what_cannot_be_split_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        machine(**changes)
