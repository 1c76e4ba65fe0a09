"""Section ``telepathy``: sizes and parts of the telepathy path."""

from typing import Literal

from pydantic import Field, field_validator

from sigma.parameters.schema import Section


class TelepathyParameters(Section):
    factors: int = Field(ge=1, le=1024)
    factor_dim: int = Field(ge=1, le=4096)
    width: int = Field(ge=8, le=8192)
    factor_tokens: int = Field(ge=0, le=64)
    tau_norm: float | None = Field(gt=0)
    film: bool
    branches: list[Literal["condition", "vector", "chunk", "trajectory"]]
    memory: Literal["carried", "cleared"]
    present: Literal["vision", "backbone", "motion"]
    factor_source: Literal["memory", "constant"]

    @field_validator("branches")
    @classmethod
    def _distinct(cls, branches: list[str]) -> list[str]:
        if len(set(branches)) != len(branches):
            raise ValueError("branches must be distinct")
        return branches
