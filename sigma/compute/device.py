"""The device that computes: section ``machine``, which no stage lists, because it may only change last digits."""

import os
from typing import TYPE_CHECKING

from sigma.parameters.machine import MachineParameters
from sigma.shared.errors import SigmaError

if TYPE_CHECKING:
    import torch


def open_device(machine: MachineParameters) -> "torch.device":
    """Choose the device and set torch's threads and deterministic kernels; ``SIGMA_DEVICE`` replaces ``auto``.

    Raises :class:`SigmaError` where CUDA is requested and absent, and for another value of ``SIGMA_DEVICE``.
    """
    # cuBLAS is deterministic only with a fixed workspace, which it reads when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    choice = os.environ.get("SIGMA_DEVICE", machine.device) if machine.device == "auto" else machine.device
    if choice not in ("auto", "cpu", "cuda"):
        raise SigmaError(f"SIGMA_DEVICE: found {choice!r}; legal: auto, cpu, cuda")
    if choice == "cuda" and not torch.cuda.is_available():
        raise SigmaError("params.yaml: machine.device: cuda asked for, but torch sees no CUDA device; legal: auto, cpu")
    torch.use_deterministic_algorithms(True, warn_only=True)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")
