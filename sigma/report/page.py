"""``reports/index.html``: one self-contained file, for the person who decides whether Sigma helps."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sigma.evaluation.intervals import episode_sums, ratio_of_means
from sigma.evaluation.references import CHECKED, TITLES
from sigma.evaluation.scores import METRICS
from sigma.evaluation.summary import Evaluation
from sigma.report import figures
from sigma.report.html import data_uri, flat, picture, render

METRIC_TITLES = {
    "mse_vec": "action vector (step 0)",
    "mse_chk": "action chunk (first C steps)",
    "mse_trj": "action trajectory (all T steps)",
    "mse_plan": "executed plan",
    "tau_l2": "‖τ‖₂ of the telepathy factors",
    "sem_align": "semantic alignment with the text",
}
COMPARED = ("base", "base_one_sample", "base_zero_noise", *CHECKED)


def typical_episode(evaluation: Evaluation) -> int:
    """The test episode whose executed plan has the median error: neither Sigma's best nor its worst."""
    base, rows = evaluation.predictions.base, evaluation.test
    episodes = np.unique(base["episode"][rows])
    errors = evaluation.errors["sigma"]["mse_plan"]
    means = [errors[rows[base["episode"][rows] == episode]].mean() for episode in episodes]
    return int(episodes[np.argsort(means, kind="stable")[(len(episodes) - 1) // 2]])


def _episode_figures(evaluation: Evaluation, episode: int) -> dict[str, str]:
    """Joint trajectories over one episode, from its strided windows end to end, and what telepathy did there."""
    predictions, execution = evaluation.predictions, evaluation.execution
    base, fps = predictions.base, predictions.shards["fps"]
    windows = np.flatnonzero((base["episode"] == episode) & (base["split"] == "test"))
    windows = windows[np.argsort(base["step"][windows])]
    strided = windows[base["strided"][windows]]
    rows = strided if len(strided) else windows
    shape = (-1, len(predictions.joints))
    seconds = ((base["step"][rows][:, None] + np.arange(predictions.horizon)) / fps).ravel()

    def raw(plan: np.ndarray) -> np.ndarray:
        return predictions.quantiles.unnormalise(plan[rows].astype(np.float64)).reshape(shape)

    plans = {name: raw(evaluation.arms[name]["mse_plan"]) for name in ("base", "sigma")}
    moments = base["step"][windows] / fps
    tau = {name: evaluation.errors[name]["tau_l2"][windows] for name in ("base", "sigma")}
    scales = {branch: values[windows] for branch, values in execution.scales.items()}
    decisions = base["step"][rows] / fps
    return {
        "trajectories": picture(
            figures.trajectories(seconds, raw(base["action"]), plans, predictions.joints, decisions)
        ),
        "telepathy": picture(figures.telepathy(moments, tau, scales)),
    }


def _ratios(evaluation: Evaluation) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Sigma's error divided by each row's; a row without any error in some episode is left out."""
    rows, errors = evaluation.test, evaluation.errors
    episodes = evaluation.predictions.base["episode"][rows]
    options = {"resamples": evaluation.resamples, "seed": evaluation.seed}
    return {
        name: {
            metric: ratio_of_means(errors[name][metric][rows], errors["sigma"][metric][rows], episodes, **options)
            for metric in METRICS
        }
        for name in COMPARED
        if all(episode_sums(errors[name][metric][rows], episodes)[0].min() > 0 for metric in METRICS)
    }


def draw(evaluation: Evaluation, summary: Mapping[str, Any], episode: int) -> dict[str, str]:
    """Draw every picture of the page: name -> data URI."""
    joints, tasks = summary["by_joint"], summary["tasks"]
    pair = ("base", "sigma")
    drawn = {
        "by_step": figures.error_by_step(summary["by_step"], evaluation.predictions.shards["fps"]),
        "by_joint": figures.grouped_bars(
            joints["joints"], {name: joints[name]["rmse_joint_units"] for name in pair}, "RMSE (joint units)"
        ),
        "by_task": figures.grouped_bars(
            list(tasks),
            {name: [group["mse"][name]["mse_plan"] for group in tasks.values()] for name in pair},
            figures.ERROR,
        ),
        "reliability": figures.reliability(summary["risk"]),
    }
    ratios = _ratios(evaluation)
    if ratios:
        drawn["ratios"] = figures.error_ratios(ratios)
    return {name: picture(svg) for name, svg in drawn.items()} | _episode_figures(evaluation, episode)


def _worst(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    frames = evaluation.predictions.frames
    return [
        {
            **window,
            "pictures": [(camera, data_uri("image/jpeg", jpeg)) for camera, jpeg in frames.get(window["window"], [])],
        }
        for window in summary["worst_windows"]
    ]


def build_page(
    evaluation: Evaluation,
    summary: Mapping[str, Any],
    *,
    sentence: str,
    check_a: Mapping[str, Any],
    check_b: Mapping[str, Any],
    provenance: Mapping[str, Any],
    data: Mapping[str, Any],
    thresholds: Mapping[str, Any],
) -> str:
    """Build the whole page; names that come from data (tasks, joints, cameras, sources) are escaped.

    ``data`` is what :func:`sigma.report.audit_section.audit_section` returns; ``thresholds`` are the adapter's and the
    report's parameters, shown beside the numbers they shape.
    """
    episode, tolerance = typical_episode(evaluation), thresholds["adapter"]["text_tolerance"]
    return render(
        "page.html",
        sentence=sentence,
        check_a=check_a,
        check_b=check_b,
        summary=summary,
        metrics=METRICS,
        metric_titles=METRIC_TITLES,
        titles=TITLES,
        checked=CHECKED,
        compared=COMPARED,
        control=evaluation.control,
        differences={"base": evaluation.control, **evaluation.differences},
        episode=episode,
        pictures=draw(evaluation, summary, episode),
        worst=_worst(evaluation, summary),
        thresholds=flat(thresholds),
        provenance=flat(provenance),
        data=data,
        shards=evaluation.predictions.shards,
        own_statistics=evaluation.predictions.features["statistics"] == "checkpoint",
        unknown=int(np.sum(evaluation.predictions.sigma["text_distance"][evaluation.test] > tolerance)),
        critical=thresholds["report"]["critical_threshold"],
    )
