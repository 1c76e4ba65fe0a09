"""Intervals of success against published examples, against brute force, and at the edges."""

import numpy as np
import pytest
from scipy.stats import binom

from sigma.evaluation.success import compare, difference_of_pairs, score, wilson


@pytest.mark.minutes
def test_paired_interval_equals_a_published_example():
    # Airway hyper-responsiveness before and after transplantation, Bentur et al. 2009, as analysed by Fagerland,
    # Lydersen and Laake (2014): 1 both, 1 and 7 discordant, 12 neither; Newcombe's interval is -0.507 to -0.026.
    estimate, low, high = difference_of_pairs(1, 1, 7, 12)
    assert estimate == pytest.approx(-6 / 21)
    assert (round(low, 3), round(high, 3)) == (-0.507, -0.026)


def test_paired_interval_covers_what_it_says():
    """Simulated with correlated arms: near 95 % of the intervals hold the true difference."""
    draw = np.random.default_rng(0)
    cells = [0.35, 0.2, 0.05, 0.4]
    tables = draw.multinomial(60, cells, size=2000)
    intervals = [difference_of_pairs(*map(int, table)) for table in tables]
    covered = np.mean([low <= 0.15 <= high for _, low, high in intervals])
    assert 0.935 < covered < 0.98


def test_arms_that_always_agree_have_no_difference_but_an_uncertain_one():
    for success in (np.ones(50, bool), np.zeros(50, bool), np.arange(50) % 2 == 0):
        found = compare(success, success)
        assert (found["difference"], found["p"]) == (0.0, 1.0)
        assert -0.1 < found["low"] < 0 < found["high"] < 0.1


def test_mcnemars_exact_p_is_the_binomial_tail():
    first = np.array([True] * 9 + [False] * 2 + [True] * 20 + [False] * 5)
    second = np.array([False] * 9 + [True] * 2 + [True] * 20 + [False] * 5)
    found = compare(first, second)
    assert [found[name] for name in ("both", "only_first", "only_second")] == [20, 9, 2]
    assert found["p"] == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert found["difference"] == pytest.approx(7 / 36)
    mirrored = compare(second, first)
    assert mirrored["p"] == pytest.approx(found["p"])
    assert (mirrored["low"], mirrored["high"]) == pytest.approx((-found["high"], -found["low"]))


def test_wilson_at_the_ends():
    assert wilson(0, 20)[1:] == pytest.approx((0.0, 1.96**2 / (20 + 1.96**2)), abs=1e-4)
    assert wilson(20, 20)[2] == 1.0


def test_scores_count_what_happened():
    found = score([True, False, False], [1.0, 0.5, 0.0], [False, True, False], [None, "wrong box", "not reached"])
    assert (found["episodes"], found["wrong_box"]) == (3, 1)
    assert found["progress"] == pytest.approx(0.5)
    assert found["failures"] == {"not reached": 1, "wrong box": 1}
    assert found["success"] == pytest.approx(1 / 3)
    assert found["success_lo"] < found["success"] < found["success_hi"]
