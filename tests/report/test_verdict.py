"""One sentence from numbers."""

import pytest

from sigma.evaluation.intervals import Difference
from sigma.evaluation.references import CHECKED
from sigma.evaluation.scores import METRICS
from sigma.report.html import number
from sigma.report.page import verdict


def _difference(first=0.2, second=0.1, low=-0.12, high=-0.08, episodes=50):
    return Difference(first, second, second - first, low, high, 0.001, episodes)


def _verdict(plan, references=None, passed=True, memory=None):
    control = {metric: plan for metric in METRICS}
    references = references or {name: control for name in CHECKED}
    check_b = {"passed": passed, "test": {"samples": 400}}
    cleared = {"mse_plan": memory or plan}
    return verdict({"passed": passed}, check_b, references | {"base": control, "sigma_memory_cleared": cleared})


def test_a_better_sigma_is_called_better_with_its_numbers():
    assert _verdict(_difference(), memory=_difference(0.15, 0.1, -0.07, -0.03)) == (
        "On 400 windows of 50 held-out episodes Sigma's executed plan has a 50.0 % lower error than the frozen π0.5 "
        "(mse_plan 0.100 against 0.200; difference −0.100, 95 % interval −0.120 to −0.0800); with memory cleared "
        "before every decision its error is 50.0 % higher (0.150); CHECK B passed: its error is lower than every "
        "reference's at all three scales; CHECK A passed."
    )


def test_memory_that_changes_nothing_is_not_called_a_help():
    sentence = _verdict(_difference(), memory=_difference(0.11, 0.1, -0.03, 0.01))
    assert "memory is not shown to help: cleared before every decision, its error is 0.110;" in sentence


def test_a_failure_names_the_rows_and_scales_that_cause_it():
    good, bad = _difference(), _difference(0.1, 0.11, -0.01, 0.03)
    references = {name: {metric: good for metric in METRICS} for name in CHECKED}
    references["hold_state"] = {**references["hold_state"], "mse_vec": bad, "mse_chk": bad}
    sentence = _verdict(_difference(0.1, 0.2, 0.05, 0.15, episodes=5), references, passed=False)
    assert "100.0 % higher" in sentence
    assert "CHECK B failed: its error is not shown to be lower than that of hold state (mse_vec, mse_chk)" in sentence
    assert "n too small: 5 episodes" in sentence
    assert sentence.endswith("CHECK A failed.")


def test_an_unchanged_plan_is_called_unchanged():
    assert "executes exactly what the frozen π0.5 does" in _verdict(_difference(0.1, 0.1, 0.0, 0.0), passed=False)


@pytest.mark.parametrize(
    "value, text",
    [(0.0, "0"), (-0.00123456, "−0.00123"), (0.1, "0.100"), (123.4, "123"), (51234.6, "51235"), (1.5e-7, "1.50e−07")],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text
