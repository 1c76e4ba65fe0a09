"""The evidence page: one file that needs nothing else, for the person who doubts that the telepathy path helps."""

from collections.abc import Mapping, Sequence
from typing import Any

from sigma.report.html import picture, render
from sigma.studies.ablation import arm_figures
from sigma.studies.ablation.arm_figures import GROUPS, compared_rows, group_of, subject_of
from sigma.studies.ablation.arm_results import OWN, place, title
from sigma.studies.ablation.arm_table import CLAIMS, CRITICAL, METRICS
from sigma.studies.evidence.diagnostic_figures import REPRESENTATIONS, TARGETS
from sigma.studies.evidence.outcomes import BASE, BETTER, WORSE, Outcome, closed_outcome, losses, signed
from sigma.studies.rollout.rollout_results import ClosedLoop, Paired

SHADES = {BETTER: "below", WORSE: "notbelow"}  # outcome -> class of its cell; any other outcome has none


def _groups(results: Mapping[str, Any]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Rows of one split of ``metrics/ablation.json`` by group, the subject left out."""
    rows = compared_rows(results)
    return {group: [item for item in rows if group_of(*item) == group] for group in GROUPS}


def _shade(pair: Paired | None) -> str:
    return SHADES.get(closed_outcome(pair), "") if pair else ""


def build_evidence(
    metrics: Mapping[str, Any],
    closed_loop: ClosedLoop | None,
    outcomes: Sequence[Outcome],
    *,
    target: str,
    kept_within: float,
    pictures: Mapping[str, str],
    sheets: Sequence[tuple[str, str]],
) -> str:
    """The whole page; names that come from data are escaped.

    ``metrics`` holds the contents of the metrics files ``ablation``, ``check_a``, ``check_b`` and ``diagnostics`` (None
    where it was not made), ``pictures`` the addresses of those of ``curves``, ``probes``, ``episodes`` and
    ``reliability`` that exist; ``sheets`` are contact sheets of rollouts, (name, address).
    """
    ablation = metrics["ablation"]
    test = ablation["test"]
    subject = subject_of(test)
    drawn = {**pictures, "forest": picture(arm_figures.forest(test))}
    tasks = closed_loop.tasks if closed_loop else {}
    if target in tasks:
        drawn["success"] = picture(arm_figures.success(tasks[target]["arms"]))
    return render(
        "evidence.html",
        package="sigma.studies.evidence",
        **metrics,
        outcomes=outcomes,
        subject=subject,
        test=test,
        validation=ablation["validation"],
        groups=_groups(test),
        validation_groups=_groups(ablation["validation"]),
        by_scale=sorted(test["rows"].items(), key=lambda item: place(item[0])),
        arms=dict(sorted(ablation["arms"].items(), key=lambda item: place(item[0]))),
        claims=CLAIMS,
        metrics=METRICS,
        metric_titles={name: name for name in METRICS} | {CRITICAL: "critical"},
        title=title,
        own=OWN,
        signed=signed,
        shades=SHADES,
        shade=_shade,
        closed_loop=closed_loop,
        target=target,
        margin=kept_within,
        losses=losses(tasks, target, subject, kept_within),
        base=BASE,
        targets=TARGETS,
        representations=REPRESENTATIONS,
        pictures=drawn,
        sheets=sheets,
    )
