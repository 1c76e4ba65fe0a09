"""The report's first line: what the numbers say, and nothing they do not."""

from collections.abc import Mapping
from typing import Any

from sigma.evaluation.checks import failures
from sigma.evaluation.intervals import Difference
from sigma.evaluation.references import TITLES


def number(value: float) -> str:
    """Three significant digits, those that are zero too, and a true minus sign."""
    text = "0" if value == 0 else f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}"
    return text.removesuffix(".").replace("-", "−")


def share(difference: Difference) -> str:
    """The change of the first arm's error in words."""
    if difference.first == 0.0:
        return "where the first error is zero"
    change = 100.0 * difference.delta / difference.first
    return f"{abs(change):.1f} % {'lower' if change < 0 else 'higher'}"


def verdict(
    check_a: Mapping[str, Any],
    check_b: Mapping[str, Any],
    control: Mapping[str, Difference],
    references: Mapping[str, Mapping[str, Difference]],
) -> str:
    """One sentence on the executed plan against the frozen base, then on both checks."""
    plan = control["mse_plan"]
    small = "" if plan.enough else f"; n too small: {plan.episodes} episodes, fewer than 20"
    if plan.delta == 0.0 and plan.low == plan.high:
        outcome = f"Sigma executes exactly what the frozen π0.5 does (mse_plan {number(plan.first)})"
    else:
        outcome = (
            f"Sigma's executed plan has a {share(plan)} error than the frozen π0.5 (mse_plan {number(plan.second)} "
            f"against {number(plan.first)}; difference {number(plan.delta)}, 95 % interval {number(plan.low)} to "
            f"{number(plan.high)}{small})"
        )
    if check_b["passed"]:
        second = "CHECK B passed: its error is lower than every reference's at all three scales"
    else:
        missed: dict[str, list[str]] = {}
        for name, metric in failures(references):
            missed.setdefault(TITLES[name], []).append(metric)
        listed = "; ".join(f"{name} ({', '.join(metrics)})" for name, metrics in missed.items())
        second = f"CHECK B failed: its error is not shown to be lower than that of {listed}"
    first = f"CHECK A {'passed' if check_a['passed'] else 'failed'}"
    samples = check_b["test"]["samples"]
    return f"On {samples} windows of {plan.episodes} held-out episodes {outcome}; {second}; {first}."
