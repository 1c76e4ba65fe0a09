"""Intervals and p values over episodes, against computations that share no code with them."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma.evaluation.intervals import paired_difference, ratio_of_means

OPTIONS = {"resamples": 2000, "seed": 0}


def _sample(episodes=30, windows=4, seed=0, effect=-0.1):
    random = np.random.default_rng(seed)
    number = np.repeat(np.arange(episodes), random.integers(1, windows + 1, episodes))
    first = random.gamma(2.0, 0.1, len(number)) + random.normal(0, 0.05, episodes)[number]
    return first, first + effect + random.normal(0, 0.2, episodes)[number], number


def test_interval_is_that_of_episodes_drawn_whole():
    first, second, number = _sample()
    found = paired_difference(first, second, number, resamples=10000, seed=1)
    random = np.random.default_rng(5)
    episodes = [np.flatnonzero(number == episode) for episode in np.unique(number)]
    means = []
    for _ in range(4000):
        rows = np.concatenate([episodes[pick] for pick in random.integers(0, len(episodes), len(episodes))])
        means.append((second - first)[rows].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    width = high - low
    assert found.delta == pytest.approx((second - first).mean())
    assert found.second - found.first == pytest.approx(found.delta)
    assert found.low == pytest.approx(low, abs=0.12 * width)
    assert found.high == pytest.approx(high, abs=0.12 * width)


def test_copies_of_windows_do_not_narrow_the_interval():
    first, second, number = _sample()
    one = paired_difference(first, second, number, **OPTIONS)
    many = paired_difference(np.tile(first, 10), np.tile(second, 10), np.tile(number, 10), **OPTIONS)
    assert (many.low, many.high) == pytest.approx((one.low, one.high))
    assert many.episodes == one.episodes == 30


def test_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        difference = random.normal(0.3, 1.0, 50)
        found = paired_difference(np.zeros(50), difference, np.arange(50), resamples=500, seed=trial)
        hits += found.low <= 0.3 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize("value", [0.0, -0.25, 1 / 3])
def test_a_constant_difference_is_its_own_interval(value):
    first, _, number = _sample()
    found = paired_difference(np.zeros_like(first), np.full_like(first, value), number, **OPTIONS)
    assert found.low == found.high == found.delta == pytest.approx(value)
    assert found.p == (1.0 if value == 0.0 else pytest.approx(2 / 2001, abs=1e-3))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8), st.integers(1, 8))
def test_nothing_is_ever_nan_and_bounds_are_ordered(values, episodes):
    number = np.arange(len(values)) % episodes
    found = paired_difference(np.zeros(len(values)), np.array(values), number, resamples=100, seed=0)
    assert np.isfinite([found.first, found.second, found.delta, found.low, found.high, found.p]).all()
    assert found.low <= found.high
    assert 0 < found.p <= 1


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("size", [1e-120, 1e200])
def test_differences_too_small_or_large_for_bca_still_have_an_interval(size):
    difference = size * np.array([1.0, -2.0, 3.0, 0.5, 1.5])
    found = paired_difference(np.zeros(5), difference, np.arange(5), **OPTIONS)
    assert -2.0 * size <= found.low < found.delta < found.high <= 3.0 * size


def test_p_is_the_exact_share_of_sign_patterns_as_extreme():
    difference = np.array([-0.5, -0.2, -0.9, 0.1, -0.4, -0.3])
    found = paired_difference(np.zeros(6), difference, np.arange(6), **OPTIONS)
    sums = [np.dot(signs, np.abs(difference)) for signs in product([-1, 1], repeat=6)]
    expected = np.mean(np.abs(sums) >= abs(difference.sum()) - 1e-12)
    assert found.p == pytest.approx(expected)


def test_p_flips_whole_episodes():
    difference = np.array([-1.0] * 50)
    found = paired_difference(np.zeros(50), difference, np.repeat([0, 1], 25), **OPTIONS)
    assert found.p == 0.5


def test_one_episode_proves_nothing():
    found = paired_difference(np.ones(4), np.zeros(4), np.zeros(4), **OPTIONS)
    assert (found.low, found.high, found.p) == (-1.0, -1.0, 1.0)
    assert not found.below_zero
    assert not found.enough


def test_twenty_episodes_are_enough():
    few, many = (paired_difference(np.ones(n), np.zeros(n), np.arange(n), **OPTIONS) for n in (19, 20))
    assert not few.enough
    assert many.enough
    assert many.below_zero


def test_a_seed_gives_the_same_numbers_again():
    sample = _sample()
    assert paired_difference(*sample, **OPTIONS) == paired_difference(*sample, **OPTIONS)
    assert paired_difference(*sample, **OPTIONS) != paired_difference(*sample, resamples=2000, seed=1)


def test_a_ratio_of_errors_is_positive_and_a_constant_one_has_no_width():
    first, _, number = _sample()
    first = np.abs(first)
    ratio, low, high = ratio_of_means(first, 0.01 * first**2, number, **OPTIONS)
    assert ratio == pytest.approx((0.01 * first**2).mean() / first.mean())
    assert 0.0 < low < ratio < high < 0.1
    assert ratio_of_means(first, 0.5 * first, number, **OPTIONS) == pytest.approx((0.5, 0.5, 0.5))
