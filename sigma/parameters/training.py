"""Sections ``train``, ``lora`` and ``loss``: how Sigma is trained."""

from typing import Literal

from pydantic import Field, model_validator

from sigma.parameters.schema import Section, Words


class TrainParameters(Section):
    steps: int = Field(ge=1, le=1_000_000)
    flow_draws: int = Field(ge=1, le=64)
    validation_draws: int = Field(ge=1, le=1024)
    batch: int = Field(ge=1, le=4096)
    accumulation: int = Field(ge=1, le=1024)
    learning_rate: float = Field(gt=0, le=1)
    lora_learning_rate: float = Field(ge=0, le=1)
    warmup: float = Field(ge=0, le=0.5)
    weight_decay: float = Field(ge=0, le=1)
    clip: float = Field(gt=0)
    average: float = Field(ge=0, lt=1)
    state_noise: float = Field(ge=0, le=1)
    views: int = Field(ge=0, le=64)
    view_shift: int = Field(ge=0, le=64)
    view_light: float = Field(ge=0, le=0.5)
    validate_every: int = Field(ge=1)
    checkpoint_every: int = Field(ge=1)
    select: Literal["best", "last"]
    autocast: Literal["bfloat16"] | None
    cache_vision: bool
    gradient_checkpointing: bool
    seed: int = Field(ge=0)


class LoraParameters(Section):
    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    projections: list[Literal["q", "k", "v", "o"]] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "LoraParameters":
        if len(set(self.projections)) != len(self.projections):
            raise ValueError("projections must be distinct")
        return self


class TrafParameters(Section):
    correction: float = Field(gt=0)
    before: float = Field(ge=0)
    autonomous: float = Field(ge=0)
    top_k: float = Field(ge=0, lt=1)
    focus: float = Field(gt=0, lt=1)
    decay: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _focuses(self) -> "TrafParameters":
        if self.focus < self.top_k:
            raise ValueError(
                f"focus ({self.focus}) below top_k ({self.top_k}) would weight hard windows down; "
                "legal: focus ≥ top_k, or top_k 0, which switches TRAF off"
            )
        return self


class TsacParameters(Section):
    memory_text: float = Field(ge=0)
    intent_telepathy: float = Field(ge=0)
    start: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)
    temperature: float = Field(gt=0)
    bank: list[Words] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> "TsacParameters":
        if self.end < self.start:
            raise ValueError(f"end must not lie before start ({self.start})")
        return self


class LossParameters(Section):
    vec: float = Field(ge=0)
    chk: float = Field(ge=0)
    trj: float = Field(ge=0)
    recall: float = Field(ge=0)
    tau: float = Field(ge=0)
    tau_band: float = Field(ge=0, le=1)
    traf: TrafParameters
    tsac: TsacParameters

    @model_validator(mode="after")
    def _some_span(self) -> "LossParameters":
        if not self.vec + self.chk + self.trj:
            raise ValueError("vec, chk and trj are all 0, so that nothing is learned; legal: at least one above 0")
        return self
