"""Intervals over training seeds and episodes: their coverage by simulation, and what they must agree with."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats

from sigma.evaluation.crossed import crossed_mean, holm, rate, rate_difference, share, share_difference
from sigma.evaluation.success import wilson


def drawn(random: np.random.Generator, seeds: int, episodes: int, level: float, between: float) -> np.ndarray:
    """Success [S, E]: each seed and each episode shifts the logit, so that neither is a repetition of the other."""
    logit = np.log(level / (1 - level))
    shift = random.normal(0, between, (seeds, 1)) + random.normal(0, 1.0, (1, episodes))
    return random.random((seeds, episodes)) < 1 / (1 + np.exp(-logit - shift))


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
@pytest.mark.parametrize(("between", "least"), [(0.0, 0.925), (0.3, 0.925), (0.8, 0.88)])
def test_the_interval_of_a_rate_holds_the_truth_as_often_as_it_says(level, between, least):
    random = np.random.default_rng(7)
    logit = np.log(level / (1 - level))
    shifts = random.normal(0, np.hypot(between, 1.0), 1_000_000)
    truth = (1 / (1 + np.exp(-logit - shifts))).mean()
    held = []
    for _ in range(400):
        _, low, high = rate(drawn(random, 3, 60, level, between))
        held.append(low <= truth <= high)
    # 400 draws of a true 95 % fall below 92.5 % once in a hundred.
    assert np.mean(held) >= least


def test_the_interval_of_a_difference_holds_the_truth_and_p_is_rarely_small_without_one():
    random, held, small = np.random.default_rng(3), [], []
    for _ in range(400):
        first, second = (drawn(random, 3, 60, 0.6, 0.4) for _ in range(2))
        found = rate_difference(first, second)
        held.append(found.low <= 0 <= found.high)
        small.append(found.p < 0.05)
    assert np.mean(held) >= 0.925 and np.mean(small) <= 0.075


def test_an_interval_over_episodes_alone_is_too_narrow_for_seeds_that_differ():
    """The reason for all this: pooling the seeds' episodes as if they were independent."""
    random, held = np.random.default_rng(5), []
    truth = (1 / (1 + np.exp(-random.normal(0, np.hypot(0.8, 1.0), 1_000_000)))).mean()
    for _ in range(300):
        success = drawn(random, 3, 60, 0.5, 0.8)
        _, low, high = wilson(int(success.sum()), success.size)
        held.append(low <= truth <= high)
    assert np.mean(held) < 0.8


def test_scenes_that_nobody_can_solve_are_not_seen_the_better_by_more_seeds():
    """All seeds meet the same scenes: where 4 % of these are beyond everybody, three seeds are no 150 scenes."""
    random, held = np.random.default_rng(11), []
    for _ in range(400):
        success = np.repeat(random.random((1, 50)) >= 0.04, 3, axis=0)
        _, low, high = rate(success)
        held.append(low <= 0.96 <= high)
    assert np.mean(held) >= 0.925


def test_a_share_keeps_an_interval_inside_the_scale_and_one_where_all_agree():
    assert share(np.ones((3, 40))) == wilson(40, 40)
    values = np.repeat([[0.0, 0.5, 1.0, 1.0] * 5], 3, axis=0)
    assert share(values) == pytest.approx(astuple(crossed_mean(values))[:3])
    assert share(np.eye(2, 20))[1] == 0.0
    # Where every pair of every seed says the same, the seeds tell no more than one of them.
    assert share_difference(np.ones((3, 40)), np.zeros((3, 40))) == rate_difference(np.ones((1, 40)), np.zeros((1, 40)))


def test_with_one_seed_it_is_students_interval_over_episodes():
    values = np.random.default_rng(0).normal(2.0, 1.0, (1, 15))
    expected = stats.ttest_1samp(values[0], 0.0)
    interval, found = expected.confidence_interval(0.95), crossed_mean(values)
    np.testing.assert_allclose([found.low, found.high, found.p], [interval.low, interval.high, expected.pvalue])


def test_seeds_that_agree_in_every_episode_add_no_width_and_no_information():
    one = np.random.default_rng(1).normal(0.5, 1.0, (1, 20))
    found, alone = (astuple(crossed_mean(values)) for values in (np.repeat(one, 4, axis=0), one))
    np.testing.assert_allclose(found, alone)


def test_ends_of_the_scale_keep_an_interval_inside_it():
    none, every = rate(np.zeros((3, 50), bool)), rate(np.ones((3, 50), bool))
    assert (none[:2], every[::2]) == ((0, 0), (1, 1))
    assert none[2] == pytest.approx(wilson(0, 50)[2]) and none[2] == pytest.approx(1 - every[1])
    difference = rate_difference(np.ones((3, 50), bool), np.zeros((1, 50), bool))
    assert (difference.mean, difference.high) == (1, 1) and difference.low > 0.88 and difference.p < 1e-6
    same = rate_difference(np.ones((3, 50), bool), np.ones((3, 50), bool))
    assert same.mean == 0 and same.low < 0 < same.high and same.p == 1
    with pytest.raises(ValueError, match="1 episode: an interval needs at least 2"):
        crossed_mean(np.zeros((3, 1)))


def test_holm_multiplies_by_the_hypotheses_left_and_never_falls():
    # Worked by hand: sorted p 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1.
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02}) == pytest.approx(
        {"b": 0.04, "d": 0.06, "c": 0.06, "a": 0.06}
    )
