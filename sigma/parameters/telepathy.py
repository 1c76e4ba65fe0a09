"""Section ``telepathy``: sizes and parts of the telepathy path."""

from typing import Literal

from pydantic import Field, model_validator

from sigma.parameters.schema import Section


class TelepathyParameters(Section):
    factors: int = Field(ge=1, le=1024)
    factor_dim: int = Field(ge=1, le=4096)
    width: int = Field(ge=8, le=8192)
    state_tokens: int = Field(ge=0, le=64)
    factor_tokens: int = Field(ge=0, le=64)
    head_width: int = Field(ge=8, le=8192)
    layers: list[int] = Field(min_length=1)
    tau_norm: float | None = Field(gt=0)
    film: bool
    memory: Literal["carried", "reset"]
    factor_source: Literal["memory", "constant"]
    read_base_action: bool
    architecture: Literal["telepathy", "mlp"]
    from_layer: int = Field(ge=0, le=1024)

    @model_validator(mode="after")
    def _fits(self) -> "TelepathyParameters":
        if self.architecture == "mlp" and not self.read_base_action:
            raise ValueError("architecture mlp reads the base action; read_base_action false needs telepathy")
        if self.from_layer and (self.factor_tokens or self.state_tokens):
            raise ValueError("from_layer above 0 needs factor_tokens 0 and state_tokens 0: the shared layers have none")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError("layers must be distinct")
        return self
