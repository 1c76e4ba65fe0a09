"""What is told of a gate after episodes were played."""

import numpy as np
import pytest

from sigma.evaluation.gate_measures import auroc, gate_measures


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    random = np.random.default_rng(0)
    scores, positive = random.integers(0, 6, 40).astype(float), random.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))
    assert auroc([1.0, np.inf, 2.0], [False, True, False]) == 1.0
    assert auroc([1.0, 2.0], [True, True]) is None


def test_late_decisions_of_long_failures_do_not_count_as_foresight():
    success = [True, True, False, False]
    scales = [[1.0, 1.0], [1.0, 0.2, 1.0], [1.0, 0.1, 0.0], [1.0, 1.0, 0.0, 0.0]]
    risks = [[0.0, 1.0], [0.0, 5.0, 0.0], [0.0, 6.0, 9.0], [0.0, 2.0, 99.0, 99.0]]
    found = gate_measures(success, risks, scales, first=2)
    assert [found[f"{name}_{state}"] for name in ("success", "failure") for state in ("open", "closed")] == [1, 1, 1, 1]
    assert found["auroc_failure"] == pytest.approx(3 / 4)
    assert found["balanced_accuracy"] == pytest.approx(0.5)
    assert found["false_alarms"] == pytest.approx(1 / 5)
