"""Every row of the ablation on the same held-out windows: errors, intervals over episodes, and paired differences.

Training seeds are averaged within each window, hence within each episode, before anything is resampled: the interval
speaks of fresh episodes, and the seeds are listed singly beside it. With one seed every number is the one that the
report computes for the same predictions.

Legend: W held-out windows, T horizon, A action dim.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sigma.evaluation import scores
from sigma.evaluation.intervals import paired_difference, ratio_of_means
from sigma.evaluation.scores import Arm
from sigma.shared.errors import SigmaError
from sigma.studies.ablation.arm_results import SUBJECT, is_confirmatory

CRITICAL = "mse_plan_critical"
METRICS = (*scores.METRICS, CRITICAL)
# The claims: error of the executed plan, on all windows and on those in which the gripper opens or closes.
CLAIMS = ("mse_plan", CRITICAL)
SPLITS = ("test", "validation")
REFERENCES = ("frozen_base", "base_mean_of_samples", "hold_state", "mean_trajectory")
LAST_PART = 0.2
Errors = dict[str, np.ndarray]  # metric -> error of each window [W]


@dataclass(frozen=True)
class Windows:
    """What every row is scored on: the validation and test windows of the baseline table, in its order."""

    columns: dict[str, np.ndarray]
    scored: np.ndarray  # [A] bool
    critical: np.ndarray  # [W] bool
    resampling: dict[str, int]  # ``resamples`` and ``seed`` of the intervals

    @classmethod
    def judged(cls, columns: Mapping[str, np.ndarray], shards: Mapping[str, Any], report: Any) -> "Windows":
        """These columns by the joints of ``shards`` (of data/shards/meta.json) and the section ``report``."""
        joints = list(shards["joint_names"])
        moving = np.array([name in shards["critical_joints"] for name in joints])
        critical = scores.critical_windows(columns["action"], columns["valid"], moving, report.critical_threshold)
        scored = np.array([name not in shards["exclude_joints"] for name in joints])
        return cls(dict(columns), scored, critical, {"resamples": report.resamples, "seed": report.seed})

    def rows(self, split: str, metric: str) -> np.ndarray:
        """Row numbers that ``metric`` averages over in ``split``."""
        chosen = self.columns["split"] == split
        return np.flatnonzero(chosen & self.critical if metric == CRITICAL else chosen)

    def errors(self, arm: Arm) -> Errors:
        """Error of each window under each of :data:`METRICS`."""
        errors = scores.window_errors(arm, self.columns["action"], self.columns["valid"], self.scored)
        return errors | {CRITICAL: errors["mse_plan"]}


@dataclass
class Row:
    """One line of the table: the errors of each training seed of an arm, or those of an untrained reference."""

    seeds: dict[int, Errors] = field(default_factory=dict)
    reference: Errors | None = None

    def errors(self, metric: str) -> np.ndarray:
        """``[W]``, averaged over training seeds."""
        if self.reference is not None:
            return self.reference[metric]
        return np.mean([errors[metric] for errors in self.seeds.values()], axis=0)


def reference_rows(plans: Mapping[str, np.ndarray], windows: Windows, chunk: int) -> dict[str, Row]:
    """The untrained rows, from their plans ``[W, T, A]``."""
    return {name: Row(reference=windows.errors(scores.plan_arm(plan, chunk))) for name, plan in plans.items()}


def add_variant(rows: dict[str, Row], name: str, seed: int, errors: Errors) -> None:
    """Put the errors of one training's variant with those of the arm's other seeds."""
    row = rows.setdefault(name, Row())
    if seed in row.seeds or row.reference is not None:
        raise SigmaError(f"row {name!r} of seed {seed} exists already; each row belongs to one arm")
    row.seeds[seed] = errors


def holm[Key: Hashable](p: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's (1979) step-down adjustment: p times the number of hypotheses still standing, never falling, at most 1."""
    adjusted: dict[Key, float] = {}
    highest = 0.0
    for index, key in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - index) * p[key]))
        adjusted[key] = highest
    return adjusted


def _entry(row: Row, sigma: Row, metric: str, windows: Windows, chosen: np.ndarray) -> dict[str, Any]:
    """One cell of the table over the windows ``chosen``: the row's error, and Sigma's minus it."""
    errors, episodes = row.errors(metric)[chosen], windows.columns["episode"][chosen]
    # The ratio to ones is the mean over windows, with episodes drawn whole.
    mean, low, high = ratio_of_means(np.ones(len(errors)), errors, episodes, **windows.resampling)
    entry: dict[str, Any] = {"mean": mean, "lo": low, "hi": high}
    if row.seeds:
        entry["seeds"] = {str(seed): float(values[metric][chosen].mean()) for seed, values in sorted(row.seeds.items())}
    if row is not sigma:
        pair = paired_difference(errors, sigma.errors(metric)[chosen], episodes, **windows.resampling)
        entry |= {"delta": pair.delta, "delta_lo": pair.low, "delta_hi": pair.high, "p": pair.p}
    return entry


def split_results(rows: Mapping[str, Row], windows: Windows, split: str) -> dict[str, Any]:
    """Everything of one split: counts, and for each row its errors and Sigma's difference to it.

    Holm's family is every confirmatory row under both claims.
    """
    chosen = {metric: windows.rows(split, metric) for metric in METRICS}
    family: dict[tuple[str, str], float] = {}
    table: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        table[name] = {"confirmatory": is_confirmatory(name)}
        for metric in METRICS:
            if not len(chosen[metric]):
                continue
            entry = table[name][metric] = _entry(row, rows[SUBJECT], metric, windows, chosen[metric])
            if table[name]["confirmatory"] and metric in CLAIMS and name != SUBJECT:
                family[name, metric] = entry["p"]
    for (name, metric), p in holm(family).items():
        table[name][metric]["p_holm"] = p
    result: dict[str, Any] = {"rows": table}
    for prefix, claim in (("", "mse_plan"), ("critical_", CRITICAL)):
        result[f"{prefix}windows"] = len(chosen[claim])
        result[f"{prefix}episodes"] = len(np.unique(windows.columns["episode"][chosen[claim]]))
    return result


def fall_over_last_part(curves: Mapping[str, np.ndarray]) -> float:
    """Relative fall of the validation loss over the last fifth of the steps, from ``curves.parquet``.

    From the last validation at or before four fifths of the steps to the last one; negative where the loss rose. Near
    zero or below, more steps would not have helped.
    """
    measured = np.isfinite(curves["validation"])
    step, loss = curves["step"][measured], curves["validation"][measured]
    if not len(step):
        raise SigmaError("no validation loss is in the curve; legal: at least one")
    before = np.flatnonzero(step <= (1.0 - LAST_PART) * curves["step"].max())
    first = loss[before[-1]] if len(before) else loss[0]
    return float((first - loss[-1]) / first)
