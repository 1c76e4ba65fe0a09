"""One evaluation: every arm scored on the same windows, and the JSON that the report shows.

Legend: W windows, T horizon, D joints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from sigma.evaluation import scores
from sigma.evaluation.intervals import ENOUGH_EPISODES, Difference, paired_difference
from sigma.evaluation.predictions import SPLITS, Predictions, stored_measures
from sigma.evaluation.references import reference_plans
from sigma.evaluation.scores import METRICS, Arm
from sigma.parameters.report import NamedTask, ReportParameters
from sigma.policy.adapter.adapter import Execution, SigmaTelepathyAdapter

# Metric -> its column in Sigma's table; the control pass's has a prefix.
TELEPATHY = ("tau_l2", "sem_align")
RISK_GROUPS = 8


@dataclass(frozen=True)
class Evaluation:
    """Arms, their errors by window, and paired differences on the test episodes.

    ``arms[name][metric]`` is ``[W, n, D]``, ``errors[name][metric]`` ``[W]``; ``differences[name][metric]`` is Sigma
    against another arm; ``critical`` marks windows in which the gripper moves; ``held_back`` those at which less than
    half of what may be let through is.
    """

    predictions: Predictions
    execution: Execution
    held_back: np.ndarray
    arms: dict[str, Arm]
    errors: dict[str, dict[str, np.ndarray]]
    differences: dict[str, dict[str, Difference]]
    critical: np.ndarray
    resamples: int
    seed: int

    @property
    def test(self) -> np.ndarray:
        """Row numbers of the test windows."""
        return self.predictions.rows("test")

    def difference(self, arm: str, metric: str, rows: np.ndarray) -> Difference:
        """Sigma minus ``arm`` over the windows ``rows``."""
        episodes = self.predictions.base["episode"][rows]
        other, sigma = (self.errors[name][metric][rows] for name in (arm, "sigma"))
        return paired_difference(other, sigma, episodes, resamples=self.resamples, seed=self.seed)

    def means(self, arm: str, rows: np.ndarray, metrics: Sequence[str] = METRICS) -> dict[str, float]:
        """The arm's errors averaged over the windows ``rows``, by metric."""
        return {metric: float(self.errors[arm][metric][rows].mean()) for metric in metrics}


def execute(predictions: Predictions, adapter: SigmaTelepathyAdapter) -> Execution:
    """What ``adapter`` would execute on every window."""
    sigma = predictions.sigma
    return adapter.execute(predictions.base["base_action"], sigma["sigma_action"], stored_measures(sigma))


def evaluate(predictions: Predictions, adapter: SigmaTelepathyAdapter, report: ReportParameters) -> Evaluation:
    """Score the frozen base, Sigma, Sigma without the adapter and without memory, and every reference on all windows.

    Without memory the adapter's scale is the one that Sigma has with it, so that nothing else differs.
    """
    base, sigma = predictions.base, predictions.sigma
    target, valid, chunk = base["action"], base["valid"], predictions.chunk
    critical = scores.critical_windows(target, valid, predictions.critical, report.critical_threshold)
    execution = execute(predictions, adapter)
    arms: dict[str, Arm] = {
        "base": scores.plan_arm(base["base_action"], chunk),
        "sigma": scores.plan_arm(execution.plan, chunk),
        "sigma_scale_1": scores.plan_arm(execute(predictions, SigmaTelepathyAdapter(1.0, 1.0)).plan, chunk),
        "sigma_memory_cleared": scores.plan_arm(
            adapter.blend(base["base_action"], sigma["cleared_action"], execution.scale), chunk
        ),
    }
    arms |= {name: scores.plan_arm(plan, chunk) for name, plan in reference_plans(base).items()}
    errors = {name: scores.window_errors(arm, target, valid, predictions.scored) for name, arm in arms.items()}
    for metric in TELEPATHY:
        errors["base"][metric] = sigma[f"control_{metric}"].astype(np.float64)
        errors["sigma"][metric] = sigma[metric].astype(np.float64)
    held_back = adapter.held_back(execution.scale)
    result = Evaluation(predictions, execution, held_back, arms, errors, {}, critical, report.resamples, report.seed)
    for name in arms:
        if name != "sigma":
            metrics = (*METRICS, *TELEPATHY) if name == "base" else METRICS
            result.differences[name] = {metric: result.difference(name, metric, result.test) for metric in metrics}
    return result


def split_metrics(evaluation: Evaluation, arm: str, batch: int) -> dict[str, dict[str, float]]:
    """The metrics file of ``base`` or ``sigma``: for each split the means over its windows, and how many there are.

    ``batches`` is the source's count: batches of ``batch`` windows with the last one kept.
    """
    result = {}
    for split in SPLITS:
        rows = evaluation.predictions.rows(split)
        if len(rows):
            counts = {"samples": len(rows), "batches": math.ceil(len(rows) / batch)}
            result[split] = {**evaluation.means(arm, rows, (*METRICS, *TELEPATHY)), **counts}
    return result


def _group(evaluation: Evaluation, rows: np.ndarray) -> dict[str, Any]:
    """Base and Sigma, with memory and without, on a group of windows, and the executed plan's differences."""
    episodes = len(np.unique(evaluation.predictions.base["episode"][rows]))
    group: dict[str, Any] = {"windows": len(rows), "episodes": episodes}
    if len(rows):
        others = ("base", "sigma_memory_cleared")
        group["mse"] = {arm: evaluation.means(arm, rows) for arm in ("sigma", *others)}
        group["sigma_minus"] = {
            arm: evaluation.difference(arm, "mse_plan", rows).to_json("reference", "sigma") for arm in others
        }
    return group


def name_tasks(instructions: np.ndarray, tasks: Sequence[NamedTask]) -> np.ndarray:
    """The name of the first task that each instruction is of, or the instruction itself."""

    def name(text: str) -> str:
        fits = lambda task: any(fnmatchcase(text.lower(), pattern.lower()) for pattern in task.instructions)  # noqa: E731
        return next((task.name for task in tasks if fits(task)), text)

    named = {text: name(text) for text in np.unique(instructions).tolist()}
    return np.array([named[text] for text in instructions.tolist()])


def _groups(evaluation: Evaluation, names: Sequence[NamedTask]) -> dict[str, dict[str, Any]]:
    """Test windows by subset and by task; ``names`` as in :func:`name_tasks`."""
    base, rows = evaluation.predictions.base, evaluation.test
    subsets = {"whole": np.ones(len(rows), bool), "kept": base["kept"][rows], "strided": base["strided"][rows]}
    subsets["critical"] = evaluation.critical[rows]
    named = name_tasks(base["task"][rows], names)
    tasks = {name: named == name for name in np.unique(named).tolist()}
    return {
        kind: {name: _group(evaluation, rows[mask]) for name, mask in masks.items()}
        for kind, masks in (("subsets", subsets), ("tasks", tasks))
    }


def _by_step_and_joint(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Error of every arm's executed plan on the test windows: at each step ``[T]``, and by joint ``[D]`` as normalised
    MSE and as RMSE in the joints' own units."""
    predictions, rows = evaluation.predictions, evaluation.test
    target, valid, quantiles = predictions.base["action"][rows], predictions.base["valid"][rows], predictions.quantiles
    by_step: dict[str, Any] = {}
    by_joint: dict[str, Any] = {"joints": predictions.joints}
    for name, arm in evaluation.arms.items():
        plan = arm["mse_plan"][rows]
        by_step[name] = scores.step_errors(plan, target, valid, predictions.scored).tolist()
        mse = scores.joint_errors(plan, target, valid)
        rmse = scores.in_joint_units(mse, quantiles.q01, quantiles.q99)
        by_joint[name] = {"mse": mse.tolist(), "rmse_joint_units": rmse.tolist()}
    return {"by_step": by_step, "by_joint": by_joint}


def risk_groups(evaluation: Evaluation, count: int) -> list[dict[str, float | None]]:
    """Reliability of the risk: test windows in ``count`` equal groups of rising risk, with the size, mean
    risk (None where infinite), mean scale and errors of each.

    A useful risk is one whose high groups are those where the whole correction (scale 1) helps least or harms.
    """
    rows, execution = evaluation.test, evaluation.execution
    order = rows[np.argsort(execution.risk[rows], kind="stable")]
    groups: list[dict[str, float | None]] = []
    for part in np.array_split(order, min(count, len(order))):
        risk = execution.risk[part]
        finite = risk[np.isfinite(risk)]
        mean = float(finite.mean()) if len(finite) else None
        scale = float(execution.scale[part].mean())
        errors = {name: evaluation.means(name, part)["mse_trj"] for name in ("base", "sigma_scale_1", "sigma")}
        groups.append({"windows": len(part), "risk": mean, "scale": scale, **errors})
    return groups


def _worst_windows(evaluation: Evaluation, count: int) -> list[dict[str, Any]]:
    """The test windows at which the error of Sigma's executed plan exceeds the base's by most."""
    columns, rows = evaluation.predictions.base, evaluation.test
    base, sigma = (evaluation.errors[arm]["mse_plan"] for arm in ("base", "sigma"))
    order = rows[np.argsort((base - sigma)[rows], kind="stable")][:count]
    return [
        {
            **{name: columns[name][row].item() for name in ("window", "episode", "step", "task")},
            "row": int(row),
            "base": float(base[row]),
            "sigma": float(sigma[row]),
            "scale": float(evaluation.execution.scale[row]),
        }
        for row in order
        if sigma[row] > base[row]
    ]


def _scales(evaluation: Evaluation) -> dict[str, Any]:
    """How much of the correction the adapter lets through, by split, and the share of windows that it lets through less
    than half of, which ``adapter.false_alarms`` promises of ordinary ones."""
    result: dict[str, dict[str, float]] = {}
    for split in SPLITS:
        scale = evaluation.execution.scale[evaluation.predictions.rows(split)]
        if len(scale):
            low, median, high = np.quantile(scale, [0.05, 0.5, 0.95]).tolist()
            spread = {"q05": low, "median": median, "q95": high, "mean": float(scale.mean())}
            result[split] = {**spread, "closed": float(evaluation.held_back[evaluation.predictions.rows(split)].mean())}
    return result


def _held_back(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The first window of each test episode at which less than half of the correction is let through, with the joint
    p-value and the term that counts most."""
    columns, execution = evaluation.predictions.base, evaluation.execution
    first: dict[int, dict[str, Any]] = {}
    for row in sorted(evaluation.test[evaluation.held_back[evaluation.test]], key=lambda row: columns["step"][row]):
        term = max(execution.surprises, key=lambda name: execution.surprises[name][row])
        told = {"scale": float(execution.scale[row]), "p": float(np.exp(-execution.risk[row])), "term": term}
        told |= {name: columns[name][row].item() for name in ("episode", "step")}
        first.setdefault(int(columns["episode"][row]), told)
    return [first[episode] for episode in sorted(first)]


def summarise(evaluation: Evaluation, report: ReportParameters) -> dict[str, Any]:
    """Everything that the report shows, as JSON."""
    notes, plan = [], evaluation.differences["base"]["mse_plan"]
    if not plan.enough:
        notes.append(
            f"n too small: {plan.episodes} test episodes; intervals of fewer than {ENOUGH_EPISODES} cover less than "
            "they say"
        )
    return {
        "test": {name: evaluation.means(name, evaluation.test) for name in evaluation.arms},
        "differences": {
            name: {metric: difference.to_json("reference", "sigma") for metric, difference in by_metric.items()}
            for name, by_metric in evaluation.differences.items()
        },
        **_groups(evaluation, report.tasks),
        **_by_step_and_joint(evaluation),
        "scale": _scales(evaluation),
        "held_back": _held_back(evaluation),
        "risk": risk_groups(evaluation, RISK_GROUPS),
        "worst_windows": _worst_windows(evaluation, report.worst_windows),
        "notes": notes,
    }
