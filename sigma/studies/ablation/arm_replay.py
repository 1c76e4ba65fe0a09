"""What a trained arm would execute on validation and test windows. Imported only by the stage that computes.

Legend: W windows, n steps of a span, A action dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigma.evaluation.predictions import stored_measures
from sigma.evaluation.replay.sigma_replay import open_model, replay_windows
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import Calibration
from sigma.policy.pi05.base_replay import batches as index_batches
from sigma.shared.spans import split
from sigma.studies.arm_folder import DECODINGS, FULL_SCALE
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel


@dataclass(frozen=True)
class ArmReplay:
    """Executed actions of each variant, (W, n, A) by span, in normalised units; a Sigma's calibration."""

    variants: dict[str, dict[str, np.ndarray]]
    calibration: Calibration | None = None


def scored_windows(batches: WindowBatches) -> np.ndarray:
    """Row numbers of the validation and test windows."""
    return np.flatnonzero(np.isin(batches.split, ("validation", "test")))


def replay_sigma_arm(
    batches: WindowBatches,
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    base_instructions: Sequence[str],
    *,
    batch: int,
) -> ArmReplay:
    """``NAME`` under its calibrated adapter, and ``NAME_full_scale``.

    ``folder`` is the model's, ``settings`` the section ``adapter``.
    """
    model, windows, chunk = open_model(batches, folder), scored_windows(batches), batches.shards.meta["chunk"]
    replay = replay_windows(model, batches, windows, batch, f"{name}: predictions", base_instructions)
    base, action = replay.columns["base_action"], replay.columns["sigma_action"]
    adapter = SigmaTelepathyAdapter(**settings, calibration=replay.calibration)
    scaled = adapter.execute(base, action, stored_measures(replay.columns))
    plans = {name: scaled.plan, f"{name}_{FULL_SCALE}": action}
    return ArmReplay({variant: split(plan, chunk) for variant, plan in plans.items()}, replay.calibration)


def replay_flow_arm(batches: WindowBatches, model: FlowModel, name: str, *, batch: int) -> ArmReplay:
    """``NAME_sample``, ``NAME_zero_noise`` and ``NAME_mean``: the policy's own action, under the base's noise."""
    model.eval()
    windows, chunk = scored_windows(batches), batches.shards.meta["chunk"]
    plans: dict[str, list[np.ndarray]] = {kind: [] for kind in DECODINGS}
    with torch.no_grad():
        for index in index_batches(len(windows), batch, f"{name}: predictions"):
            rows = windows[index]
            encoded = model.adapted_pass(*batches.observation(rows)).encoded
            for kind in DECODINGS:
                plans[kind].append(batches.decide(model.policy, encoded, rows, kind).float().cpu().numpy())
    return ArmReplay({f"{name}_{kind}": split(np.concatenate(parts), chunk) for kind, parts in plans.items()})
