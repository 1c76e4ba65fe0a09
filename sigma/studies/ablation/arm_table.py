"""Every row of the ablation on the same held-out windows: errors, intervals over episodes, and paired differences.

Training seeds are averaged within each window, hence within each episode, before anything is resampled: the interval
speaks of fresh episodes, and the seeds are listed singly beside it. With one seed every number is the one that the
report computes for the same predictions.

Legend: W held-out windows, T horizon, A action dim, R rows.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigma.evaluation import scores
from sigma.evaluation.intervals import Difference, paired_difference, ratio_of_means
from sigma.evaluation.references import reference_plans
from sigma.evaluation.scores import Arm
from sigma.shared.errors import SigmaError
from sigma.studies.ablation.arm_results import ArmSeed, is_confirmatory

CRITICAL = "mse_plan_critical"
METRICS = (*scores.METRICS, CRITICAL)
# The claims: error of the executed plan, on all windows and on those in which the gripper opens or closes.
CLAIMS = ("mse_plan", CRITICAL)
SPLITS = ("test", "validation")
REFERENCES = ("frozen_base", "base_mean_of_samples", "hold_state", "mean_trajectory")
LAST_PART = 0.2


@dataclass(frozen=True)
class Windows:
    """What every row is scored on: the validation and test windows of the baseline table, in its order."""

    columns: dict[str, np.ndarray]
    scored: np.ndarray  # [A] bool
    critical: np.ndarray  # [W] bool
    resamples: int
    seed: int

    @classmethod
    def judged(cls, columns: Mapping[str, np.ndarray], shards: Mapping[str, Any], report: Any) -> "Windows":
        """These columns by the joints of ``shards`` (of data/shards/meta.json) and the section ``report``.

        Raises :class:`SigmaError` where ``report.gripper`` is no joint.
        """
        joints = list(shards["joint_names"])
        critical = scores.critical_windows(
            columns["action"], columns["valid"], joints, report.gripper, report.critical_threshold
        )
        scored = np.array([name not in shards["exclude_joints"] for name in joints])
        return cls(dict(columns), scored, critical, report.resamples, report.seed)

    def rows(self, split: str, metric: str) -> np.ndarray:
        """Row numbers that ``metric`` averages over in ``split``."""
        chosen = self.columns["split"] == split
        return np.flatnonzero(chosen & self.critical if metric == CRITICAL else chosen)

    def errors(self, arm: Arm) -> dict[str, np.ndarray]:
        """Error of each window, ``[W]`` a metric of :data:`METRICS`."""
        columns = self.columns
        errors = scores.window_errors(arm, columns["action"], columns["valid"], self.scored)
        return errors | {CRITICAL: errors["mse_plan"]}


@dataclass
class Row:
    """One line of the table. ``seeds`` maps a training seed to its errors, ``[W]`` a metric; a reference has none."""

    name: str
    seeds: dict[int, dict[str, np.ndarray]]
    reference: dict[str, np.ndarray] | None = None

    def errors(self, metric: str) -> np.ndarray:
        """``[W]``, averaged over training seeds."""
        if self.reference is not None:
            return self.reference[metric]
        return np.mean([errors[metric] for errors in self.seeds.values()], axis=0)


def references(base: Mapping[str, np.ndarray], windows: Windows, chunk: int) -> list[Row]:
    """The untrained rows, from the whole baseline table (the mean trajectory reads its train windows)."""
    plans = {"frozen_base": base["base_action"], **reference_plans(base)}
    held_out = base["split"] != "train"
    return [Row(name, {}, windows.errors(scores.plan_arm(plans[name][held_out], chunk))) for name in REFERENCES]


def add_arm(rows: dict[str, Row], arm: ArmSeed, windows: Windows) -> None:
    """Score the variants of one training and put them with those of the arm's other seeds."""
    for name, actions in arm.variants.items():
        row = rows.setdefault(name, Row(name, {}))
        if arm.seed in row.seeds or row.reference is not None:
            raise SigmaError(f"{arm.arm}-{arm.seed}: row {name!r} exists already; each row belongs to one arm")
        row.seeds[arm.seed] = windows.errors(actions)


def holm[Key: Hashable](p: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's (1979) step-down adjustment: p times the number of hypotheses still standing, never falling, at most 1."""
    adjusted: dict[Key, float] = {}
    highest = 0.0
    for index, key in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - index) * p[key]))
        adjusted[key] = highest
    return adjusted


def _estimate(row: Row, metric: str, windows: Windows, chosen: np.ndarray) -> dict[str, Any]:
    errors, episodes = row.errors(metric)[chosen], windows.columns["episode"][chosen]
    options = {"resamples": windows.resamples, "seed": windows.seed}
    # The ratio to ones is the mean over windows, with episodes drawn whole.
    mean, low, high = ratio_of_means(np.ones(len(errors)), errors, episodes, **options)
    by_seed = {str(seed): float(values[metric][chosen].mean()) for seed, values in sorted(row.seeds.items())}
    return {"mean": mean, "lo": low, "hi": high} | ({"seeds": by_seed} if by_seed else {})


def compare(subject: Row, other: Row, metric: str, windows: Windows, chosen: np.ndarray) -> Difference:
    """``subject`` minus ``other`` over the windows ``chosen``."""
    first, second = (row.errors(metric)[chosen] for row in (other, subject))
    episodes = windows.columns["episode"][chosen]
    return paired_difference(first, second, episodes, resamples=windows.resamples, seed=windows.seed)


def split_results(rows: Mapping[str, Row], subject: str, windows: Windows, split: str) -> dict[str, Any]:
    """Everything of one split: counts, and for each row its errors and the subject's difference to it.

    Holm's family is every confirmatory row under both claims.
    """
    chosen = {metric: windows.rows(split, metric) for metric in METRICS}
    episodes = windows.columns["episode"]
    result: dict[str, Any] = {
        "windows": len(chosen["mse_plan"]),
        "episodes": len(np.unique(episodes[chosen["mse_plan"]])),
        "critical_windows": len(chosen[CRITICAL]),
        "critical_episodes": len(np.unique(episodes[chosen[CRITICAL]])),
        "rows": {},
    }
    family: dict[tuple[str, str], float] = {}
    for name, row in rows.items():
        entry: dict[str, Any] = {"confirmatory": is_confirmatory(name)}
        for metric in METRICS:
            if not len(chosen[metric]):
                continue
            entry[metric] = _estimate(row, metric, windows, chosen[metric])
            if name != subject:
                pair = compare(rows[subject], row, metric, windows, chosen[metric])
                entry[metric] |= {"delta": pair.delta, "delta_lo": pair.low, "delta_hi": pair.high, "p": pair.p}
                if entry["confirmatory"] and metric in CLAIMS:
                    family[name, metric] = pair.p
        result["rows"][name] = entry
    for (name, metric), p in holm(family).items():
        result["rows"][name][metric]["p_holm"] = p
    return result


def constant_cost(rows: Mapping[str, Row], windows: Windows, split: str) -> dict[str, float] | None:
    """What τ as a learned constant, retrained, costs in percent of Sigma's mse_plan; None without the arm."""
    if not {"tau_constant", "sigma"} <= set(rows):
        return None
    chosen = windows.rows(split, "mse_plan")
    sigma, constant = (rows[name].errors("mse_plan")[chosen] for name in ("sigma", "tau_constant"))
    options = {"resamples": windows.resamples, "seed": windows.seed}
    ratio = ratio_of_means(sigma, constant, windows.columns["episode"][chosen], **options)
    return dict(zip(("percent", "lo", "hi"), (100.0 * (value - 1.0) for value in ratio), strict=True))


def fall_over_last_part(curves: Mapping[str, np.ndarray]) -> float:
    """Relative fall of the validation error over the last fifth of the last phase's steps, from ``curves.parquet``.

    From the last validation at or before four fifths of the steps to the last one; negative where the error rose. Near
    zero or below, more steps would not have helped.
    """
    last = curves["phase"] == curves["phase"][-1]
    measured = last & np.isfinite(curves["validation"])
    step, error = curves["step"][measured], curves["validation"][measured]
    order = np.argsort(step, kind="stable")
    step, error = step[order], error[order]
    if not len(step):
        raise SigmaError("no validation error is in the curve; legal: at least one")
    before = np.flatnonzero(step <= (1.0 - LAST_PART) * curves["step"][last].max())
    first = error[before[-1]] if len(before) else error[0]
    return float((first - error[-1]) / first)
