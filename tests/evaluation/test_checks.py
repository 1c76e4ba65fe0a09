"""CHECK A and CHECK B pass when they should, and fail when they should."""

import numpy as np
import pytest

from sigma.evaluation.checks import check_a, check_b, failures
from sigma.evaluation.intervals import Difference
from sigma.evaluation.references import CHECKED
from sigma.evaluation.scores import METRICS

HEADS = {"digest": "a", "tensors": 3, "mean": 0.1, "std": 0.2, "rms": 0.22}
ROWS = np.arange(4)


def _columns(tau=1.0, align=1.0):
    ones = np.ones(4)
    return {
        "tau_l2": 8 * ones,
        "control_tau_l2": 8 * tau * ones,
        "sem_align": 0.5 * ones,
        "control_sem_align": 0.5 * align * ones,
    }


def test_check_a_passes_on_equal_heads_and_close_telepathy():
    result = check_a({"control": HEADS, "sigma": HEADS}, _columns(0.96, 1.04), ROWS, 0.05)
    assert result["passed"] is True
    assert result["avg_tau_l2"] == pytest.approx({"baseline": 7.68, "sigma": 8.0})
    assert set(result) == {
        "heads_tensors",
        "mean",
        "std",
        "rms",
        "digest",
        "avg_tau_l2",
        "avg_semantic_text_alignment",
        "tolerance",
        "passed",
    }


@pytest.mark.parametrize("key, value", [("digest", "b"), ("tensors", 4), ("mean", 0.11), ("rms", 0.0)])
def test_check_a_fails_on_other_heads(key, value):
    result = check_a({"control": {**HEADS, key: value}, "sigma": HEADS}, _columns(), ROWS, 0.05)
    assert result["passed"] is False


@pytest.mark.parametrize("tau, align", [(0.9, 1.0), (1.1, 1.0), (1.0, 0.9), (1.0, -1.0)])
def test_check_a_fails_beyond_the_tolerance(tau, align):
    heads = {"control": HEADS, "sigma": HEADS}
    assert check_a(heads, _columns(tau, align), ROWS, 0.05)["passed"] is False
    assert check_a(heads, _columns(tau, align), ROWS, 1.0)["passed"] is (align > 0)


def test_check_a_looks_at_the_given_windows_alone():
    columns = _columns()
    columns["control_tau_l2"][3] = 100.0
    assert check_a({"control": HEADS, "sigma": HEADS}, columns, ROWS[:3], 0.05)["passed"] is True


def _difference(high=-0.1, episodes=30):
    return Difference(1.0, 0.5, -0.5, -0.6, high, 0.01, episodes)


def _references(**changes):
    return {name: {metric: changes.get(f"{name}_{metric}", _difference()) for metric in METRICS} for name in CHECKED}


def _check_b(references):
    return check_b(references | {"base": {metric: _difference() for metric in METRICS}}, samples=723, batch=4)


def test_check_b_passes_when_every_upper_bound_lies_below_zero():
    result = _check_b(_references())
    assert result["passed"] is True
    assert result["test"]["samples"] == 723
    assert result["test"]["batches"] == 181
    assert set(result["references"]) == {"hold_state", "mean_trajectory", "base_mean_of_samples"}
    assert set(result["test"]["mse_vec"]) == {"baseline", "sigma", "delta", "delta_lo", "delta_hi", "p"}


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("metric", ["mse_vec", "mse_chk", "mse_trj"])
@pytest.mark.parametrize("high", [0.0, 0.01])
def test_check_b_fails_when_one_upper_bound_does_not(name, metric, high):
    references = _references(**{f"{name}_{metric}": _difference(high)})
    assert _check_b(references)["passed"] is False
    assert failures(references) == {name: [metric]}


def test_check_b_fails_on_a_single_episode():
    references = _references(hold_state_mse_vec=_difference(episodes=1))
    assert _check_b(references)["passed"] is False
