"""Training of an arm by its kind, and the model folder that it leaves behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sigma.compute.device import open_device
from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.studies.ablation.fine_tuned import save_fine_tuned
from sigma.studies.ablation.flow_trainer import FlowResult, FlowTrainer
from sigma.studies.arm_folder import ArmKind
from sigma.training import batches
from sigma.training.batches import WindowBatches
from sigma.training.loop import Curve
from sigma.training.output import write_model
from sigma.training.state import Scratch
from sigma.training.trainer import Trainer, TrainingResult

BASE, SHARDS, FEATURES = Path("data/base.json"), Path("data/shards"), Path("data/features")
BASELINE = Path("data/predictions/baseline.parquet")


def load_material(parameters: Parameters) -> WindowBatches:
    """The windows of ``data/`` on an untouched base."""
    return batches.load_batches(BASE, SHARDS, FEATURES, BASELINE, device=open_device(parameters.machine))


def new_trainer(kind: ArmKind, material: WindowBatches, parameters: Parameters) -> Trainer | FlowTrainer:
    """What trains an arm of this kind: residuals on the base, plain LoRA, or every weight of the base."""
    if kind == "full" and material.base.statistics is None:
        raise SigmaError("data/base.json: a base that was published without statistics cannot be saved fine-tuned")
    return Trainer(material, parameters) if kind == "residual" else FlowTrainer(material, parameters, kind)


@contextmanager
def trained_arm(kind: ArmKind, parameters: Parameters) -> Iterator[TrainingResult | FlowResult]:
    """Train an arm, resuming an interrupted training; its checkpoint is deleted where the block ends without error."""
    trainer = new_trainer(kind, load_material(parameters), parameters)
    with Scratch.open(trainer.key()) as scratch:
        yield trainer.run(scratch)
        scratch.clear()


def write_arm_model(result: TrainingResult | FlowResult, folder: Path) -> None:
    """Sigma's model folder; or a PEFT adapter; or a whole checkpoint, which loads as a base."""
    if isinstance(result, TrainingResult):
        write_model(result, folder)
    elif result.model.whole:
        save_fine_tuned(folder, result.material.base, result.material.builder.normalisation)
    else:
        lora.save(result.model.tuned, folder)


def curve_columns(curves: list[Curve]) -> dict[str, np.ndarray]:
    """One row a step of each phase: ``phase``, ``step``, ``train`` (loss), ``validation`` (mse_plan) and
    ``validation_flow`` (flow-matching loss); NaN where nothing was measured."""
    rows = []
    for curve in curves:
        measured = {int(point["step"]): point for point in curve.validation}
        for point in curve.train:
            step = int(point["step"])
            errors = measured.get(step, {})
            rows.append((curve.name, step, point["loss"], errors.get("value", np.nan), errors.get("flow", np.nan)))
    types = {"phase": str, "step": np.int64, **dict.fromkeys(("train", "validation", "validation_flow"), np.float64)}
    columns = zip(types.items(), zip(*rows, strict=True), strict=True)
    return {name: np.array(values, dtype=dtype) for (name, dtype), values in columns}
