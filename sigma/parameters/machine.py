"""Section ``machine``: where the work runs. No stage depends on it: it may change only the last digits of a result."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sigma.parameters.schema import Section

# Addresses of a running cluster, for the error message.
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
