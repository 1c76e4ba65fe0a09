"""Where the work runs. No stage lists this section: it may not change a result beyond the stated tolerance."""

import os
from typing import TYPE_CHECKING

from sigma.parameters.machine import MachineParameters
from sigma.shared.errors import SigmaError

if TYPE_CHECKING:
    import torch


def open_device(machine: MachineParameters) -> "torch.device":
    """The device that computes, with threads and deterministic kernels set; ``SIGMA_DEVICE`` overrides ``auto``.

    Raises :class:`SigmaError` where CUDA is asked for and absent.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    wanted = os.environ.get("SIGMA_DEVICE", machine.device) if machine.device == "auto" else machine.device
    if wanted not in ("auto", "cpu", "cuda"):
        raise SigmaError(f"SIGMA_DEVICE: found {wanted!r}; legal: auto, cpu, cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SigmaError("params.yaml: machine.device: cuda asked for, but torch sees no CUDA device; legal: auto, cpu")
    torch.use_deterministic_algorithms(True, warn_only=True)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
