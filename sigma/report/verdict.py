"""The report's first line: the outcome of the comparison with the frozen base and of both checks."""

from collections.abc import Mapping
from typing import Any

from sigma.evaluation.checks import failures
from sigma.evaluation.intervals import Difference
from sigma.evaluation.references import TITLES
from sigma.report.html import render


def verdict(
    check_a: Mapping[str, Any],
    check_b: Mapping[str, Any],
    control: Mapping[str, Difference],
    references: Mapping[str, Mapping[str, Difference]],
) -> str:
    """One sentence on the executed plan against the frozen base, then on both checks; its words are a template's.

    Args:
        check_a: ``metrics/check_a.json``.
        check_b: ``metrics/check_b.json``.
        control: Sigma against the frozen base, by metric.
        references: Sigma against each reference of CHECK B, by metric.
    """
    plan = control["mse_plan"]
    missed: dict[str, list[str]] = {}
    for name, metric in failures(references):
        missed.setdefault(TITLES[name], []).append(metric)
    lines = render(
        "verdict.txt",
        check_a=check_a,
        check_b=check_b,
        plan=plan,
        unchanged=plan.delta == 0.0 and plan.low == plan.high,
        change=abs(100.0 * plan.delta / plan.first) if plan.first else None,
        missed=missed,
    )
    return " ".join(lines.splitlines())
