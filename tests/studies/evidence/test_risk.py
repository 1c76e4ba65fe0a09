"""Rank correlation of a made-up risk."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from sigma.studies.evidence.risk import spearman

OPTIONS = {"resamples": 400, "seed": 0}


def _sample(noise):
    random = np.random.default_rng(1)
    episodes = np.repeat(np.arange(25), 4)
    error = random.gamma(2, 1, 100)
    return error + noise * random.normal(size=100), error, episodes


def test_the_correlation_is_spearmans_and_its_interval_narrows_with_it():
    risk, error, episodes = _sample(1.0)
    found = spearman(risk, error, episodes, **OPTIONS)
    assert found["spearman"] == pytest.approx(spearmanr(risk, error).statistic)
    assert found["lo"] < found["spearman"] < found["hi"]
    exact = spearman(error**3, error, episodes, **OPTIONS)
    assert exact == pytest.approx({"spearman": 1.0, "lo": 1.0, "hi": 1.0})


def test_whole_episodes_are_drawn():
    """Copies of the windows of each episode add nothing: the interval stays as wide."""
    risk, error, episodes = _sample(1.5)
    once = spearman(risk, error, episodes, **OPTIONS)
    many = spearman(np.tile(risk, 6), np.tile(error, 6), np.tile(episodes, 6), **OPTIONS)
    assert many["hi"] - many["lo"] == pytest.approx(once["hi"] - once["lo"], rel=0.05)


def test_a_constant_risk_is_no_correlation_and_one_episode_has_no_interval():
    risk, error, episodes = _sample(1.0)
    assert spearman(np.ones(100), error, episodes, **OPTIONS) == {"spearman": 0.0, "lo": 0.0, "hi": 0.0}
    alone = spearman(risk, error, np.zeros(100), **OPTIONS)
    assert alone["lo"] == alone["spearman"] == alone["hi"]


def test_an_infinite_risk_ranks_highest():
    risk, error, episodes = _sample(0.0)
    risk[np.argmax(error)] = np.inf
    assert spearman(risk, error, episodes, **OPTIONS)["spearman"] == pytest.approx(1.0)
