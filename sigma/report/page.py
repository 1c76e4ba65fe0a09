"""``reports/index.html``: one self-contained file, for the person who decides whether Sigma helps, and its verdict."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sigma.evaluation.checks import failures
from sigma.evaluation.intervals import Difference, episode_sums, ratio_of_means
from sigma.evaluation.references import CHECKED, TITLES
from sigma.evaluation.scores import METRICS
from sigma.evaluation.summary import Evaluation
from sigma.report import figures
from sigma.report.audit_section import Audit
from sigma.report.html import picture, render

METRIC_TITLES = {
    "mse_vec": "action vector (step 0)",
    "mse_chk": "action chunk (first C steps)",
    "mse_trj": "action trajectory (all T steps)",
    "mse_plan": "executed plan",
    "tau_l2": "‖τ‖₂ of the telepathy factors",
    "sem_align": "semantic alignment with the text",
}
COMPARED = ("sigma_memory_cleared", "base", "base_one_sample", "base_zero_noise", *CHECKED)


def verdict(
    check_a: Mapping[str, Any], check_b: Mapping[str, Any], differences: Mapping[str, Mapping[str, Difference]]
) -> str:
    """One sentence on the executed plan against the frozen base and on memory, then on both checks; its words are a
    template's.

    ``differences`` holds Sigma's against the base, itself without memory and each reference of CHECK B, by metric.
    """
    plan, memory = (differences[name]["mse_plan"] for name in ("base", "sigma_memory_cleared"))
    missed = failures(differences)
    lines = render(
        "verdict.txt", check_a=check_a, check_b=check_b, plan=plan, memory=memory, missed=missed, titles=TITLES
    )
    return " ".join(lines.splitlines())


def _typical_episode(evaluation: Evaluation) -> int:
    """The test episode whose executed plan has the median error: neither Sigma's best nor its worst."""
    base, rows = evaluation.predictions.base, evaluation.test
    episodes = np.unique(base["episode"][rows])
    errors = evaluation.errors["sigma"]["mse_plan"]
    means = [errors[rows[base["episode"][rows] == episode]].mean() for episode in episodes]
    return int(episodes[np.argsort(means, kind="stable")[(len(episodes) - 1) // 2]])


def _episode_figures(evaluation: Evaluation, episode: int) -> dict[str, str]:
    """Joint trajectories over one episode, from its strided windows end to end, and what telepathy did there."""
    predictions = evaluation.predictions
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
    surprises = {term: values[windows] for term, values in evaluation.execution.surprises.items()}
    decisions = base["step"][rows] / fps
    # Where the scale is fixed no term has a say.
    scale = evaluation.execution.scale[windows]
    gate = {"gate": figures.gate(moments, surprises, scale)} if surprises else {}
    return {
        "trajectories": figures.trajectories(seconds, raw(base["action"]), plans, predictions.joints, decisions),
        "telepathy": figures.telepathy(moments, tau),
        **gate,
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


def _draw(evaluation: Evaluation, summary: Mapping[str, Any], episode: int) -> dict[str, str]:
    """Draw every picture of the page: name -> data URI."""
    joints, tasks, pair = summary["by_joint"], summary["tasks"], ("base", "sigma_memory_cleared", "sigma")
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
    drawn |= _episode_figures(evaluation, episode)
    return {name: picture(svg) for name, svg in drawn.items()}


def build_page(
    evaluation: Evaluation, metrics: Mapping[str, Mapping[str, Any]], audit: Audit, thresholds: Mapping[str, Any]
) -> str:
    """Build the whole page; names that come from data (tasks, joints, cameras, sources) are escaped.

    ``metrics`` maps a metrics file of the report to its content; ``thresholds`` are the sections ``adapter`` and
    ``report``, shown beside the numbers they shape.
    """
    episode, summary = _typical_episode(evaluation), metrics["sigma_eval_report"]
    return render(
        "page.html",
        summary=summary,
        check_a=metrics["check_a"],
        check_b=metrics["check_b"],
        provenance=metrics["provenance"],
        thresholds=thresholds,
        metrics=METRICS,
        metric_titles=METRIC_TITLES,
        titles=TITLES,
        checked=CHECKED,
        compared=COMPARED,
        differences=evaluation.differences,
        episode=episode,
        pictures=_draw(evaluation, summary, episode),
        frames=evaluation.predictions.frames,
        data=audit,
        shards=evaluation.predictions.shards,
        features=evaluation.predictions.features,
    )
