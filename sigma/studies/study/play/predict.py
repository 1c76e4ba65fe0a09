"""What a trained arm would execute on validation and test windows.

Legend: W windows, n steps of a span, A action dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.parameters import Parameters
from sigma.studies.study.cells.arm_folder import (
    CALIBRATION,
    DECODINGS,
    FULL_SCALE,
    GATED,
    MEMORY_RESET,
    MODEL,
    PREDICTIONS,
)

if TYPE_CHECKING:
    import numpy as np

    from sigma.policy.adapter.calibration import Calibration
    from sigma.policy.model.decision import SigmaModel
    from sigma.training.batches import WindowBatches
    from sigma.training.flow import FlowModel


@dataclass(frozen=True)
class Predictions:
    """Executed actions of each variant, (W, n, A) by span, in normalised units; what its gate was calibrated with."""

    variants: "dict[str, dict[str, np.ndarray]]"
    calibration: "Calibration | None" = None


def predict(
    record: Mapping[str, Any], model: Path, batches: "WindowBatches", parameters: Parameters, folder: Path
) -> None:
    """Write into ``folder`` what a trained arm would execute on validation and test windows, and a Sigma's calibration.

    What is evaluated is the saved ``model``, whose ``arm.json`` is ``record``, on the untouched base of ``batches``:
    the folder is then known to load.
    """
    import numpy as np

    from sigma.policy.adapter.calibration import write_calibration
    from sigma.shared.files import write_table
    from sigma.shared.tables import to_table

    windows = np.flatnonzero(np.isin(batches.split, ("validation", "test")))
    predicted = _predict(record["kind"], batches, windows, model / MODEL, record["arm"], parameters)
    columns: dict[str, Any] = {name: batches.columns[name][windows] for name in ("window", "episode", "step", "split")}
    for variant, actions in predicted.variants.items():
        columns |= {f"{variant}.{span}": action.astype(np.float32) for span, action in actions.items()}
    if predicted.calibration is not None:
        write_calibration(folder / CALIBRATION, predicted.calibration, model / MODEL)
    write_table(folder / PREDICTIONS, to_table(columns))


def _predict(
    kind: str, batches: "WindowBatches", windows: "np.ndarray", folder: Path, arm: str, parameters: Parameters
) -> Predictions:
    """Load the saved model on the untouched base of ``batches`` and let it decide."""
    from dataclasses import replace

    from sigma.evaluation.replay.sigma_replay import decide_cleared, open_model
    from sigma.policy.model import lora
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.description import describe_base
    from sigma.policy.pi05.inputs import InputBuilder
    from sigma.shared.spans import split
    from sigma.studies.study.train.past_frames import PastFrameBatches
    from sigma.training.flow import FlowModel

    batch = parameters.machine.batch
    if kind == "sigma":
        sigma = open_model(batches, folder)
        predicted = predict_gated(batches, windows, sigma, arm, FULL_SCALE, parameters)
        if sigma.heads.sizes.memory == "cleared":
            return predicted
        forgotten = split(decide_cleared(sigma, batches, windows, batch), batches.shards.meta["chunk"])
        return Predictions(predicted.variants | {f"{arm}_{MEMORY_RESET}": forgotten}, predicted.calibration)
    if kind in ("lora", "frames"):
        batches = PastFrameBatches.of(batches) if kind == "frames" else batches
        model = FlowModel(lora.load(batches.base.policy, folder)).eval()
        gated = predict_gated(batches, windows, model, f"{arm}_{GATED}", "", parameters)
        decoded = predict_flow(batches, windows, model, arm, batch=batch)
        return Predictions(decoded.variants | gated.variants, gated.calibration)
    base = load_base(describe_base(str(folder), None), device=str(batches.builder.device), dtype=batches.dtype)
    batches = replace(batches, base=base, builder=InputBuilder(base, batches.builder.normalisation))
    return predict_flow(batches, windows, FlowModel(base.policy), arm, batch=batch)


def predict_gated(
    batches: "WindowBatches",
    windows: "np.ndarray",
    model: "SigmaModel | FlowModel",
    name: str,
    ungated: str,
    parameters: Parameters,
) -> Predictions:
    """``NAME`` behind its calibrated gate and, where ``ungated`` is a variant's name, ``NAME_ungated`` at scale 1."""
    from sigma.evaluation.predictions import stored_measures
    from sigma.evaluation.replay.sigma_replay import replay_windows
    from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
    from sigma.shared.spans import split

    batch, texts, chunk = parameters.machine.batch, parameters.base.instructions, batches.shards.meta["chunk"]
    replay = replay_windows(model, batches, windows, batch, f"{name}: predictions", texts)
    base, action = replay.columns["base_action"], replay.columns["sigma_action"]
    adapter = SigmaTelepathyAdapter(**parameters.adapter.model_dump(), calibration=replay.calibration)
    plans = {name: adapter.execute(base, action, stored_measures(replay.columns)).plan}
    if ungated:
        plans[f"{name}_{ungated}"] = action
    return Predictions({variant: split(plan, chunk) for variant, plan in plans.items()}, replay.calibration)


def predict_flow(
    batches: "WindowBatches", windows: "np.ndarray", model: "FlowModel", name: str, *, batch: int
) -> Predictions:
    """``NAME_zero_noise``, ``NAME_mean`` and ``NAME_sample``: the policy's own action, under the base's noise."""
    import numpy as np
    import torch

    from sigma.policy.pi05.base_replay import batches as index_batches
    from sigma.shared.spans import split

    model.eval()
    chunk = batches.shards.meta["chunk"]
    plans: dict[str, list[np.ndarray]] = {kind: [] for kind in DECODINGS}
    with torch.no_grad():
        for index in index_batches(len(windows), batch, f"{name}: predictions"):
            rows = windows[index]
            encoded = model.adapted_pass(*batches.observation(rows)).encoded
            for kind in DECODINGS:
                plans[kind].append(batches.decide(model.policy, encoded, rows, kind).float().cpu().numpy())
    return Predictions({f"{name}_{kind}": split(np.concatenate(parts), chunk) for kind, parts in plans.items()})
