"""What a trained arm would execute on validation and test windows, and what Sigma would without its own factors.

Imported only by the stage that computes.

Legend: W windows, T horizon, C chunk, A action dim, K factors, E factor dim.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigma.evaluation.predictions import stored_measures
from sigma.evaluation.replay.sigma_replay import (
    SigmaReplay,
    calibrate_windows,
    decide,
    hold_action,
    open_model,
    replay_windows,
    stored_corrections,
)
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.model.decision import FactorSwap, SigmaModel
from sigma.policy.pi05.base_replay import batches
from sigma.shared.errors import SigmaError
from sigma.shared.seeding import generator
from sigma.shared.spans import split
from sigma.studies.arm_folder import DECODINGS, FULL_SCALE, WITHOUT_RESIDUAL
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel


@dataclass(frozen=True)
class ArmReplay:
    """Executed actions of each variant, (W, n, A) by span, in normalised units; a residual arm's calibration."""

    variants: dict[str, dict[str, np.ndarray]]
    calibration: tuple[dict[str, Any], dict[str, np.ndarray]] | None = None


def scored_windows(material: WindowBatches) -> np.ndarray:
    """Row numbers of the validation and test windows."""
    return np.flatnonzero(np.isin(material.split, ("validation", "test")))


def replay_residual_arm(
    material: WindowBatches,
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    *,
    seed: int,
    swaps: bool,
    batch: int,
) -> ArmReplay:
    """``NAME`` under its calibrated adapter and ``NAME_full_scale``; with ``swaps`` also ``tau_mean``, ``tau_shuffled``
    and ``NAME_without_residual``.

    These three are executed with the scales of ``NAME``: what differs is what is read or left out, not the adapter's
    opinion of it. ``folder`` is the model's, ``settings`` the section ``adapter``; ``seed`` decides between donors of
    factors that are equally near.
    """
    model, branch = open_model(material, folder)
    windows = scored_windows(material)
    replay = replay_windows(model, material, branch, windows, batch, f"{name}: predictions")
    calibration, reference = calibrate_windows(material, replay)
    columns = replay.columns
    base, corrections = columns["base_action"], stored_corrections(columns)
    adapter = SigmaTelepathyAdapter(**settings, calibration=calibration)
    execution = adapter.execute(base, corrections, stored_measures(columns, hold_action(material, windows)))
    full = SigmaTelepathyAdapter(1.0, 1.0).execute(base, corrections)
    variants = {name: execution.actions, f"{name}_{FULL_SCALE}": full.actions}
    if swaps:

        def blend(other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            """The actions under other corrections, with the scales of ``NAME``."""
            return {
                span: adapter.blend(base[:, : correction.shape[1]], correction, execution.scales[span])
                for span, correction in other.items()
            }

        chunk = corrections["chunk"].shape[1]
        variants[f"{name}_{WITHOUT_RESIDUAL}"] = blend(split(columns["adapted_action"] - base, chunk))
        for variant, swap in _swaps(model, material, branch, replay, seed, batch).items():
            swapped = decide(model, material, branch, windows, batch, variant, swap=swap)
            variants[variant] = blend(stored_corrections(columns | swapped))
    return ArmReplay(variants, (calibration, reference))


def _swaps(
    model: SigmaModel, material: WindowBatches, branch: str, replay: SigmaReplay, seed: int, batch: int
) -> dict[str, Callable[[np.ndarray], FactorSwap]]:
    """Factors that say nothing of the window: their mean over the train windows, and those of another episode.

    τ' comes from the same source.
    """
    names = ("tau", "tau_anticipated")
    train = np.flatnonzero(material.split == "train")
    decisions = decide(model, material, branch, train, batch, "tau_mean: train windows")
    means = [decisions[name].mean(axis=0) for name in names]
    windows = replay.columns["window"]
    row_of = {int(window): row for row, window in enumerate(windows)}
    donors = donor_windows(material, windows, seed)

    def swap(factors: Iterable[np.ndarray]) -> FactorSwap:
        arrays = (np.ascontiguousarray(values, dtype=np.float32) for values in factors)
        return FactorSwap(*(torch.from_numpy(array).to(material.builder.device) for array in arrays))

    def of_mean(rows: np.ndarray) -> FactorSwap:
        return swap(np.broadcast_to(mean, (len(rows), *mean.shape)) for mean in means)

    def of_donors(rows: np.ndarray) -> FactorSwap:
        chosen = [row_of[donors[int(row)]] for row in rows]
        return swap(replay.columns[name][chosen] for name in names)

    return {"tau_mean": of_mean, "tau_shuffled": of_donors}


def donor_windows(material: WindowBatches, windows: np.ndarray, seed: int) -> dict[int, int]:
    """For each window the one of another episode of the same split at the nearest phase; ties are drawn by seed.

    Phase is a decision's place in its episode: 0 at the first, 1 at the last decision.
    """
    columns = material.columns
    episode, step, split = (columns[name][windows] for name in ("episode", "step", "split"))
    last = {number: step[episode == number].max() for number in np.unique(episode)}
    phase = step / np.array([max(1, last[number]) for number in episode])
    donors = {}
    for row, window in enumerate(windows):
        others = np.flatnonzero((split == split[row]) & (episode != episode[row]))
        if not len(others):
            raise SigmaError(
                f"data/shards: a single {split[row]} episode; factors can be shuffled across at least two; "
                f"see window.{split[row]} in params.yaml"
            )
        distance = np.abs(phase[others] - phase[row])
        nearest = others[distance <= distance.min() + 1e-9]
        donors[int(window)] = int(windows[generator(seed, "donor", int(window)).choice(nearest)])
    return donors


def replay_flow_arm(material: WindowBatches, model: FlowModel, name: str, *, batch: int) -> ArmReplay:
    """``NAME_sample``, ``NAME_zero_noise`` and ``NAME_mean``: the policy's own action, under the base's noise."""
    model.eval()
    windows, chunk = scored_windows(material), material.shards.meta["chunk"]
    plans: dict[str, list[np.ndarray]] = {kind: [] for kind in DECODINGS}
    with torch.no_grad():
        for index in batches(len(windows), batch, f"{name}: predictions"):
            rows = windows[index]
            encoded = model.adapted_pass(material.observation(rows)).encoded
            for kind in DECODINGS:
                plans[kind].append(material.decide(model.policy, encoded, rows, kind).float().cpu().numpy())
    return ArmReplay({f"{name}_{kind}": split(np.concatenate(parts), chunk) for kind, parts in plans.items()})
