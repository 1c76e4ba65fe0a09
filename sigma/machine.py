"""Where the work runs. No stage lists this section: it may not change a result beyond the stated tolerance."""

import os
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sigma.errors import SigmaError
from sigma.parameters import Section

if TYPE_CHECKING:
    import torch


EXAMPLES = {"dask": "tcp://10.0.0.5:8786", "ray": "auto, or 10.0.0.5:6379"}


class MachineParameters(Section):
    device: Literal["auto", "cpu", "cuda"]
    threads: int = Field(ge=0, le=1024)
    workers: int = Field(ge=1, le=1024)
    backend: Literal["local", "dask", "ray"]
    address: str | None
    processes: int = Field(ge=1, le=1024)
    fsdp: bool
    batch: int = Field(ge=1, le=4096)
    compile: bool

    @field_validator("address")
    @classmethod
    def _cluster_has_address(cls, address: str | None, info: ValidationInfo) -> str | None:
        backend = info.data.get("backend", "local")
        if (address is None) != (backend == "local"):
            legal = "null" if backend == "local" else "the address of a running cluster, such as " + EXAMPLES[backend]
            raise ValueError(f"legal with machine.backend {backend}: {legal}")
        return address

    @model_validator(mode="after")
    def _split_among_several(self) -> "MachineParameters":
        if self.fsdp and self.processes == 1:
            raise ValueError("fsdp: found true with one process; legal: false, or machine.processes of 2 and more")
        if self.fsdp and self.compile:
            raise ValueError("fsdp: found true with machine.compile true; legal: one of them")
        return self


SECTIONS: dict[str, type[Section]] = {"machine": MachineParameters}


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
