"""The evidence page: one file that needs nothing else, for the person who doubts that the telepathy path helps."""

from collections.abc import Mapping, Sequence
from typing import Any

from sigma.report.html import picture, render
from sigma.studies.ablation import arm_figures as evidence_figures
from sigma.studies.ablation.arm_figures import GROUPS, compared_rows, group_of, subject_of
from sigma.studies.ablation.arm_results import OWN, place, title
from sigma.studies.ablation.arm_table import CLAIMS, CRITICAL, METRICS
from sigma.studies.evidence.diagnostic_figures import REPRESENTATIONS, TARGETS
from sigma.studies.evidence.outcomes import BASES, Outcome, losses, signed
from sigma.studies.rollout.rollout_results import ClosedLoop

METRIC_TITLES = {**{name: name for name in METRICS}, CRITICAL: "critical"}


def tables(results: Mapping[str, Any]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Rows of one split of ``metrics/ablation.json`` by group, the subject left out."""
    rows = compared_rows(results)
    return {group: [item for item in rows if group_of(*item) == group] for group in GROUPS}


def _verdict_class(entry: Mapping[str, float]) -> str:
    return "below" if entry["delta_hi"] < 0 else "notbelow"


def build_evidence(
    ablation: Mapping[str, Any],
    closed_loop: ClosedLoop | None,
    *,
    outcomes: Sequence[Outcome],
    check_a: Mapping[str, Any],
    check_b: Mapping[str, Any],
    diagnostics: Mapping[str, Any] | None,
    pictures: Mapping[str, str],
    sheets: Sequence[tuple[str, str]],
    target: str,
    margin: float,
) -> str:
    """The whole page; names that come from data are escaped.

    Args:
        ablation: ``metrics/ablation.json``.
        closed_loop: what was rolled out, None where nothing was.
        outcomes: the table of outcomes on top.
        check_a: ``metrics/check_a.json``.
        check_b: ``metrics/check_b.json``.
        diagnostics: ``metrics/diagnostics.json``, None where it was not made.
        pictures: addresses of ``curves``, ``probes``, ``episodes`` and ``reliability``, those that exist.
        sheets: contact sheets of rollouts, (name, address).
        target: the task that Sigma learned.
        margin: the loss in points that counts as keeping a task of the base.
    """
    test = ablation["test"]
    subject = subject_of(test)
    drawn = dict(pictures) | {"forest": picture(evidence_figures.forest(test))}
    tasks = None if closed_loop is None else closed_loop.tasks
    if tasks and target in tasks:
        drawn["success"] = picture(evidence_figures.success(tasks[target]))
    return render(
        "evidence.html",
        package="sigma.studies.evidence",
        outcomes=outcomes,
        subject=subject,
        subject_rows={split: ablation[split]["rows"][subject] for split in ("test", "validation")},
        test=test,
        validation=ablation["validation"],
        groups=tables(test),
        validation_groups=tables(ablation["validation"]),
        by_scale=sorted(test["rows"].items(), key=lambda item: place(item[0])),
        arms=dict(sorted(ablation["arms"].items(), key=lambda item: place(item[0]))),
        cost=ablation["tau_constant_cost"],
        claims=CLAIMS,
        metrics=METRICS,
        metric_titles=METRIC_TITLES,
        title=title,
        own=OWN,
        verdict_class=_verdict_class,
        signed=signed,
        check_a=check_a,
        check_b=check_b,
        tasks=tasks,
        settings=closed_loop.settings if closed_loop else {},
        kept=closed_loop.kept if closed_loop else {},
        target=target,
        margin=margin,
        losses=losses(tasks, target, subject, margin) if tasks else {},
        bases=BASES,
        diagnostics=diagnostics,
        targets=TARGETS,
        representations=REPRESENTATIONS,
        pictures=drawn,
        sheets=sheets,
    )
