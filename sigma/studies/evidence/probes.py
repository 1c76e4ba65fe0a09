"""Linear probes: what can be read off a representation by a line, on episodes that the probe never saw.

A probe that reads a label off τ says that the label is in τ, not that the policy uses it; therefore the same probe on
the frozen base's features stands beside it. Strength of regularisation is chosen by cross-validation over whole
episodes of the fitting part; inputs are standardised there.

Legend: W windows, n test windows, F features, L label dims.
"""

from dataclasses import dataclass

import numpy as np

from sigma.evaluation.intervals import ratio_of_means

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4)  # of ridge; its inverse is logistic regression's C


@dataclass(frozen=True)
class Gain:
    """A probe's success on each test window: the score is Σ gain / Σ weight.

    Classes: weight 1, gain 1 where right: accuracy. Quantities: weight the squared distance from the fitting part's
    mean, gain what the probe takes off it: R², 0 for that mean.
    """

    weight: np.ndarray  # [n]
    gain: np.ndarray  # [n]


def _fitted(estimator, grid: dict, scoring: str, folds: int, features, labels, episodes):
    """The estimator on standardised inputs, at the strength that cross-validation over whole episodes chooses."""
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), estimator)
    grid = {f"{pipeline.steps[-1][0]}__{key}": values for key, values in grid.items()}
    search = GridSearchCV(pipeline, grid, scoring=scoring, cv=GroupKFold(folds))
    return search.fit(features, labels, groups=episodes)


def probe_classes(
    features: np.ndarray, labels: np.ndarray, episodes: np.ndarray, test: np.ndarray, *, folds: int
) -> Gain:
    """Multinomial logistic regression from ``features [W, F]`` to ``labels [W]``, fitted where ``test [W]`` is
    False."""
    from sklearn.linear_model import LogisticRegression

    features, fit = features.astype(np.float64), ~test
    if len(np.unique(labels[fit])) < 2:
        predicted = np.full(test.sum(), labels[fit][0])
    else:
        grid = {"C": [1.0 / strength for strength in STRENGTHS]}
        regression = LogisticRegression(max_iter=2000)
        search = _fitted(regression, grid, "accuracy", folds, features[fit], labels[fit], episodes[fit])
        predicted = search.predict(features[test])
    return Gain(np.ones(test.sum()), (predicted == labels[test]).astype(float))


def probe_quantity(
    features: np.ndarray, labels: np.ndarray, episodes: np.ndarray, test: np.ndarray, *, folds: int
) -> Gain:
    """Ridge regression from ``features [W, F]`` to ``labels [W, L]``, fitted where ``test [W]`` is False."""
    from sklearn.linear_model import Ridge

    features, fit, grid = features.astype(np.float64), ~test, {"alpha": list(STRENGTHS)}
    search = _fitted(Ridge(), grid, "neg_mean_squared_error", folds, features[fit], labels[fit], episodes[fit])
    predicted = search.predict(features[test]).reshape(labels[test].shape)
    away = ((labels[test] - labels[fit].mean(axis=0)) ** 2).sum(axis=1)
    return Gain(away, away - ((labels[test] - predicted) ** 2).sum(axis=1))


def chance(labels: np.ndarray, test: np.ndarray) -> float:
    """Accuracy on the test windows of always naming the fitting part's most frequent class."""
    names, counts = np.unique(labels[~test], return_counts=True)
    return float((labels[test] == names[counts.argmax()]).mean())


def score(gain: Gain, episodes: np.ndarray, *, resamples: int, seed: int, against: Gain | None = None) -> dict:
    """The score with its 95 % interval over the test ``episodes [n]``, and the paired difference to ``against``."""
    options = {"resamples": resamples, "seed": seed}
    result = dict(zip(("score", "lo", "hi"), ratio_of_means(gain.weight, gain.gain, episodes, **options), strict=True))
    if against is not None:
        difference = ratio_of_means(gain.weight, gain.gain - against.gain, episodes, **options)
        result |= dict(zip(("delta", "delta_lo", "delta_hi"), difference, strict=True))
    return result
