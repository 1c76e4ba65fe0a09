"""Reliability of the risk, in groups of test windows."""

from types import SimpleNamespace

import numpy as np
import pytest

from sigma.evaluation.scores import METRICS
from sigma.evaluation.summary import Evaluation, risk_groups


def _evaluation(risk: np.ndarray) -> Evaluation:
    errors = {"base": np.full(7, 2.0), "sigma": np.arange(7.0), "sigma_scale_1": np.zeros(7)}
    return Evaluation(
        predictions=SimpleNamespace(rows=lambda split: np.arange(7)),
        execution=SimpleNamespace(risk=risk, scale=1 / (1 + risk)),
        held_back=np.zeros(7, bool),
        arms={},
        errors={arm: dict.fromkeys(METRICS, values) for arm, values in errors.items()},
        differences={},
        critical=np.zeros(7, bool),
        resamples=100,
        seed=0,
    )


def test_groups_rise_in_risk_and_hold_every_window_once():
    evaluation = _evaluation(np.array([5.0, 1.0, np.inf, 3.0, 2.0, 4.0, np.inf]))
    groups = risk_groups(evaluation, 3)
    assert [group["windows"] for group in groups] == [3, 2, 2]
    assert [group["risk"] for group in groups] == [2.0, 4.5, None]
    assert [group["sigma"] for group in groups] == [pytest.approx((1 + 4 + 3) / 3), 2.5, 4.0]
    assert len(risk_groups(evaluation, 100)) == 7
