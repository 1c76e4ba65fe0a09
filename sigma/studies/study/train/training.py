"""Training of an arm by its kind, and the model folder that it leaves behind. Imported only by stages that compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sigma.compute.device import open_device
from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.parameters import ArmKind
from sigma.studies.study.cells.workspace import Workspace
from sigma.studies.study.train.fine_tuned import save_fine_tuned
from sigma.studies.study.train.flow_trainer import FlowTrainer
from sigma.studies.study.train.past_frames import PastFrameBatches
from sigma.training import batches
from sigma.training.batches import WindowBatches
from sigma.training.loop import Curve
from sigma.training.output import write_model
from sigma.training.state import Scratch
from sigma.training.trainer import Trainer, TrainingResult


def load_arm_batches(workspace: Workspace, parameters: Parameters) -> WindowBatches:
    """The workspace's windows on an untouched base."""
    paths = workspace.base, workspace.shards, workspace.features, workspace.baseline
    return batches.load_batches(*paths, device=open_device(parameters.machine))


def new_trainer(
    kind: ArmKind, windows: WindowBatches, parameters: Parameters, start: Path | None = None
) -> Trainer | FlowTrainer:
    """What trains an arm of this kind: Sigma, plain LoRA with past frames or without, or every weight of the base.

    ``start`` is a trained model's folder to go on from, which ``full`` cannot.
    """
    if kind == "full" and windows.base.statistics is None:
        raise SigmaError("data/base.json: a base that was published without statistics cannot be saved fine-tuned")
    if kind == "sigma":
        return Trainer(windows, parameters, start)
    return FlowTrainer(PastFrameBatches.of(windows) if kind == "frames" else windows, parameters, kind, start)


@contextmanager
def trained_arm(
    kind: ArmKind, workspace: Workspace, parameters: Parameters, start: Path | None = None
) -> Iterator[TrainingResult]:
    """Train an arm, resuming an interrupted training; its checkpoint is deleted where the block ends without error.

    ``start`` is a trained model's folder to go on from; None begins with the base.
    """
    trainer = new_trainer(kind, load_arm_batches(workspace, parameters), parameters, start)
    with Scratch.open(trainer.key()) as scratch:
        yield trainer.run(scratch)
        scratch.clear()


def write_arm_model(result: TrainingResult, folder: Path) -> None:
    """Sigma's model folder; or a PEFT adapter; or a whole checkpoint, which loads as a base."""
    if isinstance(result.model, SigmaModel):
        write_model(result, folder)
    elif result.model.whole:
        save_fine_tuned(folder, result.batches.base, result.batches.builder.normalisation)
    else:
        lora.save(result.model.tuned, folder)


def curve_columns(curve: Curve) -> dict[str, np.ndarray]:
    """One row a step: ``step``, ``train`` (the whole loss), ``validation`` (the flow-matching loss that selects) and
    ``validation_mse_plan`` (the error from zero noise); NaN where nothing was measured."""
    measured = {int(point["step"]): point for point in curve.validation}
    columns: dict[str, list[float]] = {"train": [], "validation": [], "validation_mse_plan": []}
    for point in curve.train:
        errors = measured.get(int(point["step"]), {})
        values = point["loss"], errors.get("value", np.nan), errors.get("mse_plan", np.nan)
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    steps = {"step": np.array([point["step"] for point in curve.train], dtype=np.int64)}
    return steps | {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
