"""The report's first line: the outcome of the comparison with the frozen base and of both checks."""

from collections.abc import Mapping
from typing import Any

from sigma.evaluation.checks import failures
from sigma.evaluation.intervals import Difference
from sigma.evaluation.references import TITLES
from sigma.report.html import render


def verdict(
    check_a: Mapping[str, Any], check_b: Mapping[str, Any], differences: Mapping[str, Mapping[str, Difference]]
) -> str:
    """One sentence on the executed plan against the frozen base, then on both checks; its words are a template's.

    ``differences`` holds Sigma's against the base and each reference of CHECK B, by metric.
    """
    plan, missed = differences["base"]["mse_plan"], failures(differences)
    lines = render("verdict.txt", check_a=check_a, check_b=check_b, plan=plan, missed=missed, titles=TITLES)
    return " ".join(lines.splitlines())
