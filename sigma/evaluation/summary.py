"""One evaluation: every arm scored on the same windows, and the JSON that the report shows.

Legend: W windows, T horizon, D joints.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigma.evaluation import scores
from sigma.evaluation.intervals import Difference, paired_difference
from sigma.evaluation.predictions import SPLITS, Predictions, stored_measures
from sigma.evaluation.references import reference_plans
from sigma.evaluation.scores import METRICS, Arm
from sigma.policy.adapter.adapter import Execution, SigmaTelepathyAdapter

# Metric -> its column in Sigma's table; the control pass's has a prefix.
TELEPATHY = ("tau_l2", "sem_align")
RISK_BINS = 8


@dataclass(frozen=True)
class Evaluation:
    """Arms, their errors by window, and paired differences on the test episodes.

    ``arms[name][metric]`` is ``[W, n, D]``, ``errors[name][metric]`` ``[W]``; ``control`` is Sigma against the frozen
    base, ``differences[name]`` Sigma against another arm; ``critical`` marks windows in which the gripper moves.
    """

    predictions: Predictions
    execution: Execution
    arms: dict[str, Arm]
    errors: dict[str, dict[str, np.ndarray]]
    control: dict[str, Difference]
    differences: dict[str, dict[str, Difference]]
    critical: np.ndarray
    resamples: int
    seed: int

    @property
    def test(self) -> np.ndarray:
        return self.predictions.rows("test")

    def difference(self, arm: str, metric: str, rows: np.ndarray) -> Difference:
        """Sigma minus ``arm`` over the windows ``rows``."""
        episodes = self.predictions.base["episode"][rows]
        other, sigma = (self.errors[name][metric][rows] for name in (arm, "sigma"))
        return paired_difference(other, sigma, episodes, resamples=self.resamples, seed=self.seed)


def execute(predictions: Predictions, adapter: SigmaTelepathyAdapter) -> Execution:
    """What ``adapter`` would execute on every window."""
    base, sigma = predictions.base, predictions.sigma
    return adapter.execute(
        base["base_action"],
        predictions.residuals(),
        stored_measures(sigma, base["hold"]),
        adapted_action=sigma["adapted_action"],
    )


def evaluate(
    predictions: Predictions,
    adapter: SigmaTelepathyAdapter,
    *,
    resamples: int,
    seed: int,
    gripper: int,
    critical_threshold: float,
) -> Evaluation:
    """Score the frozen base, Sigma, Sigma with the adapter off and every reference on all windows."""
    base, sigma = predictions.base, predictions.sigma
    target, valid, chunk = base["action"], base["valid"], predictions.chunk
    execution = execute(predictions, adapter)
    arms: dict[str, Arm] = {
        "base": scores.plan_arm(base["base_action"], chunk),
        "sigma": scores.span_arm(execution.actions),
        "sigma_scale_1": scores.span_arm(execute(predictions, SigmaTelepathyAdapter(1.0, 1.0)).actions),
    }
    arms |= {name: scores.plan_arm(plan, chunk) for name, plan in reference_plans(base).items()}
    errors = {name: scores.window_errors(arm, target, valid, predictions.scored) for name, arm in arms.items()}
    for metric in TELEPATHY:
        errors["base"][metric] = sigma[f"control_{metric}"].astype(np.float64)
        errors["sigma"][metric] = sigma[metric].astype(np.float64)
    critical = scores.critical_windows(target, valid, gripper, critical_threshold)
    result = Evaluation(predictions, execution, arms, errors, {}, {}, critical, resamples, seed)
    rows = result.test
    result.control.update({metric: result.difference("base", metric, rows) for metric in (*METRICS, *TELEPATHY)})
    for name in arms:
        if name not in ("sigma", "base"):
            result.differences[name] = {metric: result.difference(name, metric, rows) for metric in METRICS}
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
            result[split] = {**scores.means(evaluation.errors[arm], rows), **counts}
    return result


def _group(evaluation: Evaluation, rows: np.ndarray) -> dict[str, Any]:
    """Base and Sigma on a group of windows, with the interval of the executed plan."""
    episodes = len(np.unique(evaluation.predictions.base["episode"][rows]))
    group: dict[str, Any] = {"windows": len(rows), "episodes": episodes}
    if len(rows):
        group["mse"] = {
            arm: {metric: float(evaluation.errors[arm][metric][rows].mean()) for metric in METRICS}
            for arm in ("base", "sigma")
        }
        group["mse_plan_difference"] = evaluation.difference("base", "mse_plan", rows).to_json("base", "sigma")
    return group


def groups(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Test windows by subset and by task."""
    base, rows = evaluation.predictions.base, evaluation.test
    subsets = {"whole": np.ones(len(rows), bool), "kept": base["kept"][rows], "strided": base["strided"][rows]}
    subsets["critical"] = evaluation.critical[rows]
    tasks = {name: base["task"][rows] == name for name in np.unique(base["task"][rows]).tolist()}
    return {
        "subsets": {name: _group(evaluation, rows[mask]) for name, mask in subsets.items()},
        "tasks": {name: _group(evaluation, rows[mask]) for name, mask in tasks.items()},
    }


def by_step(evaluation: Evaluation) -> dict[str, list[float]]:
    """Error of every arm's executed plan at each horizon step of the test windows, ``[T]``."""
    base, rows = evaluation.predictions.base, evaluation.test
    return {
        name: scores.step_errors(
            arm["mse_plan"][rows], base["action"][rows], base["valid"][rows], evaluation.predictions.scored
        ).tolist()
        for name, arm in evaluation.arms.items()
    }


def by_joint(evaluation: Evaluation) -> dict[str, dict[str, list[float]]]:
    """Error of the executed plan by joint on the test windows: normalised MSE, and RMSE in the joints' own units."""
    base, rows, quantiles = evaluation.predictions.base, evaluation.test, evaluation.predictions.quantiles
    result = {}
    for name, arm in evaluation.arms.items():
        mse = scores.joint_errors(arm["mse_plan"][rows], base["action"][rows], base["valid"][rows])
        rmse = scores.in_joint_units(mse, quantiles.q01, quantiles.q99)
        result[name] = {"mse": mse.tolist(), "rmse_joint_units": rmse.tolist()}
    return result


def risk_bins(evaluation: Evaluation) -> list[dict[str, float | None]]:
    """Reliability of the risk: test windows in equal groups of rising trajectory risk, with the errors of each group.

    A useful risk is one whose high groups are those where the whole correction (scale 1) helps least or harms.
    """
    rows = evaluation.test
    order = rows[np.argsort(evaluation.execution.risks["trajectory"][rows], kind="stable")]
    bins: list[dict[str, float | None]] = []
    for part in np.array_split(order, min(RISK_BINS, len(order))):
        errors = {
            arm: float(evaluation.errors[arm]["mse_trj"][part].mean()) for arm in ("base", "sigma", "sigma_scale_1")
        }
        scale = float(evaluation.execution.scales["trajectory"][part].mean())
        risk = evaluation.execution.risks["trajectory"][part]
        finite = risk[np.isfinite(risk)]
        bins.append(
            {"windows": len(part), "risk": float(finite.mean()) if len(finite) else None, "scale": scale, **errors}
        )
    return bins


def worst_windows(evaluation: Evaluation, count: int) -> list[dict[str, Any]]:
    """The test windows that Sigma makes worst: largest excess of its executed plan's error over the base's, if
    positive."""
    base, rows = evaluation.predictions.base, evaluation.test
    excess = evaluation.errors["sigma"]["mse_plan"] - evaluation.errors["base"]["mse_plan"]
    order = rows[np.argsort(-excess[rows], kind="stable")][:count]
    return [
        {
            **{name: base[name][row].item() for name in ("window", "episode", "step", "task")},
            "row": int(row),
            "base": float(evaluation.errors["base"]["mse_plan"][row]),
            "sigma": float(evaluation.errors["sigma"]["mse_plan"][row]),
            "scale": {span: float(scale[row]) for span, scale in evaluation.execution.scales.items()},
        }
        for row in order
        if excess[row] > 0
    ]


def adapter_summary(evaluation: Evaluation) -> dict[str, Any]:
    """How much of the correction the adapter lets through, by split and span."""
    result: dict[str, Any] = {}
    for split in SPLITS:
        rows = evaluation.predictions.rows(split)
        if len(rows):
            result[split] = {
                span: dict(
                    zip(("q05", "median", "q95"), np.quantile(scale[rows], [0.05, 0.5, 0.95]).tolist(), strict=True)
                )
                | {"mean": float(scale[rows].mean())}
                for span, scale in evaluation.execution.scales.items()
            }
    return result


def summarise(evaluation: Evaluation, worst: int) -> dict[str, Any]:
    """Everything that the report shows, as JSON."""
    rows = evaluation.test
    arms = evaluation.arms
    notes = []
    episodes = evaluation.control["mse_plan"].episodes
    if not evaluation.control["mse_plan"].enough:
        notes.append(f"n too small: {episodes} test episodes; intervals of fewer than 20 cover less than they say")
    return {
        "test": {
            name: {metric: float(evaluation.errors[name][metric][rows].mean()) for metric in METRICS} for name in arms
        },
        "differences": {
            name: {metric: item.to_json("reference", "sigma") for metric, item in by_metric.items()}
            for name, by_metric in {"base": evaluation.control, **evaluation.differences}.items()
        },
        **groups(evaluation),
        "by_step": by_step(evaluation),
        "by_joint": {"joints": evaluation.predictions.joints, **by_joint(evaluation)},
        "scale": adapter_summary(evaluation),
        "risk": risk_bins(evaluation),
        "worst_windows": worst_windows(evaluation, worst),
        "notes": notes,
    }
