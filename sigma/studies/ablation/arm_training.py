"""Training of an arm by its kind, and the model folder that it leaves behind."""

from pathlib import Path
from typing import Literal

import numpy as np

from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.studies.ablation.fine_tuned import save_fine_tuned
from sigma.studies.ablation.flow_trainer import FlowResult, FlowTrainer
from sigma.training.batches import WindowBatches
from sigma.training.loop import Curve
from sigma.training.output import write_model
from sigma.training.trainer import Trainer, TrainingResult

Kind = Literal["residual", "lora", "full"]


def new_trainer(kind: Kind, material: WindowBatches, parameters: Parameters) -> Trainer | FlowTrainer:
    """What trains an arm of this kind: residuals on the base, plain LoRA, or every weight of the base."""
    if kind == "full" and material.base.statistics is None:
        raise SigmaError("data/base.json: a base that was published without statistics cannot be saved fine-tuned")
    return Trainer(material, parameters) if kind == "residual" else FlowTrainer(material, parameters, kind)


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
            beside = measured.get(int(point["step"]), {})
            errors = (beside.get("value", np.nan), beside.get("flow", np.nan))
            rows.append((curve.name, int(point["step"]), point["loss"], *errors))
    phase, step, train, validation, flow = zip(*rows, strict=True)
    numbers = {"train": train, "validation": validation, "validation_flow": flow}
    return {"phase": np.array(phase, dtype=str), "step": np.array(step, dtype=np.int64)} | {
        name: np.array(values, dtype=np.float64) for name, values in numbers.items()
    }
