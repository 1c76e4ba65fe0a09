"""``sigma finetune``: train LoRA and the telepathy heads on the train windows, select on validation."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sigma.errors import SigmaError
from sigma.parameters import Section


class TrainParameters(Section):
    steps: int = Field(ge=1, le=1_000_000)
    flow_steps: int = Field(ge=0, le=1_000_000)
    flow_draws: int = Field(ge=1, le=64)
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


class TrafParameters(Section):
    top_k: float = Field(ge=0, lt=1)
    focus: float = Field(gt=0, lt=1)
    decay: float = Field(ge=0, lt=1)
    draw: bool

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
    bank: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> "TsacParameters":
        if self.end < self.start:
            raise ValueError(f"end must not lie before start ({self.start})")
        return self


class LossParameters(Section):
    vec: float = Field(ge=0)
    chk: float = Field(ge=0)
    trj: float = Field(ge=0)
    tau: float = Field(ge=0)
    tau_band: float = Field(ge=0, le=1)
    flow: float = Field(ge=0)
    traf: TrafParameters
    tsac: TsacParameters


SECTIONS: dict[str, type[Section]] = {
    "train": TrainParameters,
    "lora": LoraParameters,
    "telepathy": TelepathyParameters,
    "loss": LossParameters,
}

BASE = Path("data/base.json")
SHARDS = Path("data/shards")
FEATURES = Path("data/features")
BASELINE = Path("data/predictions/baseline.parquet")
MODEL = Path("models/sigma")
CURVES = Path("data/training")


def run(parameters: dict[str, Section]) -> str:
    """Train, select, and move the finished model into place; returns one line with the selected step."""
    telepathy = parameters["telepathy"]
    assert isinstance(telepathy, TelepathyParameters)
    if telepathy.architecture != "telepathy":
        raise SigmaError(
            f"params.yaml: telepathy.architecture: found {telepathy.architecture}, which has no factors for CHECK A; "
            "legal: telepathy (the mlp is an arm of stages/ablation)"
        )

    from sigma.io import Outputs
    from sigma.machine import MachineParameters, open_device
    from sigma.processes import launch, rank, to_start
    from sigma.training.material import load_material
    from sigma.training.output import write_curves, write_model
    from sigma.training.shared_scratch import SharedScratch
    from sigma.training.trainer import Trainer, needs_expert
    from sigma.usage import record_training

    machine = parameters["machine"]
    assert isinstance(machine, MachineParameters)
    device = open_device(machine)
    if to_start(machine.processes):
        _check_shares(parameters, machine.processes, machine.fsdp)
        return launch(run, parameters, device)
    material = load_material(BASE, SHARDS, FEATURES, BASELINE, device=device, expert=needs_expert(parameters))
    trainer = Trainer(material, parameters)
    with SharedScratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
        if rank():
            return ""  # the first process writes
        record_training("finetune", result.speed)
        with Outputs() as outputs:
            write_curves(result, outputs.folder(CURVES))
            write_model(result, MODEL)
        scratch.clear()
    return (
        f"finetune: {result.trainable:,} trained parameters, {result.steps} steps, "
        f"validation mse_plan {result.validation:.5f} at step {result.selected}"
    )


def _check_shares(parameters: dict[str, Section], processes: int, fsdp: bool) -> None:
    """Refuse more processes than an optimizer step has windows, and draws that sharing these would alter.

    Processes that split the base's layers need as many passes each, so as many windows.
    """
    train, lora = parameters["train"], parameters["lora"]
    assert isinstance(train, TrainParameters) and isinstance(lora, LoraParameters)
    windows = train.batch * train.accumulation
    if processes > windows:
        raise SigmaError(
            f"params.yaml: machine.processes: found {processes} with {windows} windows an optimizer step (train.batch "
            f"× train.accumulation); legal: integer from 1 to {windows}"
        )
    if fsdp and windows % processes:
        raise SigmaError(
            f"params.yaml: machine.processes: found {processes} with machine.fsdp true and {windows} windows an "
            "optimizer step (train.batch × train.accumulation), which must be shared out evenly; legal: a divisor of "
            f"{windows}, or machine.fsdp false"
        )
    if lora.dropout:
        raise SigmaError(
            f"params.yaml: machine.processes: found {processes} with lora.dropout {lora.dropout}, whose masks are "
            "drawn for a whole batch; legal: 1, or lora.dropout 0"
        )
