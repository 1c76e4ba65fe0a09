"""Linear probes on representations whose content is known."""

import numpy as np
import pytest

from sigma.studies.evidence.probes import chance, probe_classes, probe_quantity, score

OPTIONS = {"resamples": 300, "seed": 0}


@pytest.fixture(scope="module")
def windows():
    """30 episodes of 6 windows, the last 10 for testing; a label of three classes and a quantity of two dims."""
    random = np.random.default_rng(0)
    episodes = np.repeat(np.arange(30), 6)
    quantity = random.normal(size=(180, 2))
    classes = random.integers(0, 3, 180)
    return episodes, episodes >= 20, classes, quantity, random


def test_what_is_there_is_read_off_whatever_its_scale_and_what_is_not_there_is_not(windows):
    episodes, test, classes, quantity, random = windows
    noise = random.normal(size=(180, 5))
    informative = np.hstack([np.eye(3)[classes] * 1e-4, quantity @ random.normal(size=(2, 4)) * 1e3 + 50, noise])
    for features, low, high in ((informative, 0.99, 1.0), (noise, -0.3, 0.55)):
        read = probe_classes(features, classes, episodes, test, folds=4)
        assert low <= score(read, episodes[test], **OPTIONS)["score"] <= high
        read = probe_quantity(features, quantity, episodes, test, folds=4)
        assert low <= score(read, episodes[test], **OPTIONS)["score"] <= min(high, 1.0)


def test_the_scores_are_accuracy_and_explained_variance_on_test_episodes(windows):
    from sklearn.linear_model import Ridge

    episodes, test, classes, quantity, random = windows
    features = quantity + random.normal(size=quantity.shape)
    gain = probe_quantity(features, quantity, episodes, test, folds=4)
    best = []
    for alpha in (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4):
        mean, deviation = features[~test].mean(axis=0), features[~test].std(axis=0)
        fitted = Ridge(alpha=alpha).fit((features[~test] - mean) / deviation, quantity[~test])
        predicted = fitted.predict((features[test] - mean) / deviation)
        left = ((quantity[test] - predicted) ** 2).sum()
        best.append(1 - left / ((quantity[test] - quantity[~test].mean(axis=0)) ** 2).sum())
    found = score(gain, episodes[test], **OPTIONS)
    assert min(abs(found["score"] - value) for value in best) < 1e-9
    assert found["lo"] < found["score"] < found["hi"]
    assert set(probe_classes(features, classes, episodes, test, folds=4).gain.tolist()) <= {0.0, 1.0}


def test_a_label_that_only_the_test_windows_give_away_is_not_learnt(windows):
    """The feature is the label in test episodes and noise in the others: a probe fitted on test windows would win."""
    episodes, test, classes, _, random = windows
    leaking = random.normal(size=(180, 3))
    leaking[test] = np.eye(3)[classes[test]] * 5
    gain = probe_classes(leaking, classes, episodes, test, folds=4)
    assert score(gain, episodes[test], **OPTIONS)["score"] < 0.75


def test_the_difference_between_two_probes_is_paired(windows):
    episodes, test, _, quantity, random = windows
    weak, strong = (quantity + size * random.normal(size=quantity.shape) for size in (1.0, 0.2))
    gains = [probe_quantity(features, quantity, episodes, test, folds=4) for features in (weak, strong)]
    first, second = (score(gain, episodes[test], **OPTIONS)["score"] for gain in gains)
    found = score(gains[1], episodes[test], **OPTIONS, against=gains[0])
    assert found["delta"] == pytest.approx(second - first)
    assert 0 < found["delta_lo"] < found["delta"] < found["delta_hi"]


def test_chance_is_the_most_frequent_class_of_the_fitting_part():
    labels, test = np.array([1, 1, 0, 0, 0, 1]), np.array([False, False, False, True, True, True])
    assert chance(labels, test) == pytest.approx(1 / 3)


def test_one_class_alone_is_named_everywhere():
    labels, episodes = np.array([2, 2, 2, 2, 1, 2]), np.arange(6)
    gain = probe_classes(np.zeros((6, 1)), labels, episodes, episodes >= 4, folds=2)
    assert gain.gain.tolist() == [0.0, 1.0]
