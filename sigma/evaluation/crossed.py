"""Means and differences over several training seeds that met the same episodes: intervals that contain both.

A value belongs to one training seed and one episode, and both are draws: another training would give another policy,
another day other episodes. With S seeds and E episodes the mean's variance is that of a crossed random-effects design,
(MS_seed + MS_episode − MS_residual) / (S·E). The residual's mean square is not subtracted, which errs on the wide side
and cannot go below zero; degrees of freedom are Satterthwaite's (1946). ``tests/evaluation/test_crossed.py`` checks the
coverage by simulation.

A rate has Wilson's interval for as many independent episodes as would give this variance, with Student's quantile. A
difference of rates has Student's interval, and at least the width of Newcombe's for S·E independent pairs. Where
nothing varies, the seeds tell no more than one of them does: E episodes count. Where seeds differ by 0.8 in logits, say
from 30 to 70 %, three of them hold the truth in 91 to 95 % only.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from sigma.evaluation.intervals import LEVEL
from sigma.evaluation.success import Interval, compare, wilson


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval, and the two-sided p of a true mean of 0."""

    mean: float
    low: float
    high: float
    p: float

    def joined(self, interval: Interval, p: float) -> "Estimate":
        """The wider of both intervals at each end, and the larger p."""
        return Estimate(self.mean, min(self.low, interval[1]), max(self.high, interval[2]), max(self.p, p))


def _variance(values: np.ndarray) -> tuple[float, float]:
    """The variance of the mean of ``values [S, E]``, and its degrees of freedom; those are 0 where it is 0.

    Raises :class:`ValueError` for fewer than two episodes.
    """
    seeds, episodes = values.shape
    if episodes < 2:
        raise ValueError(f"{episodes} episode: an interval needs at least 2")
    squares = [seeds * values.mean(axis=0).var(ddof=1)]
    freedom = [episodes - 1]
    if seeds > 1:
        squares.append(episodes * values.mean(axis=1).var(ddof=1))
        freedom.append(seeds - 1)
    total = float(sum(squares))
    if total == 0.0:
        return 0.0, 0.0
    shares = sum(square**2 / free for square, free in zip(squares, freedom, strict=True))
    return total / values.size, float(total**2 / shares)


def crossed_mean(values: np.ndarray) -> Estimate:
    """The mean of ``values [S, E]``; with one seed the interval is over episodes alone."""
    values = np.asarray(values, dtype=np.float64)
    mean, (variance, degrees) = float(values.mean()), _variance(values)
    if variance == 0.0:
        return Estimate(mean, mean, mean, float(mean == 0.0))
    margin = float(t.ppf((1 + LEVEL) / 2, degrees) * variance**0.5)
    return Estimate(mean, mean - margin, mean + margin, float(2 * t.sf(abs(mean) / variance**0.5, degrees)))


def share(values: np.ndarray) -> Interval:
    """The mean of shares ``[S, E]``, each in [0, 1] and of several outcomes of one draw, with its interval."""
    values = np.asarray(values, dtype=np.float64)
    if not _variance(values)[0]:
        return rate(values[:1] > 0.5) if values[0, 0] in (0.0, 1.0) else (float(values[0, 0]),) * 3
    found = crossed_mean(values)
    return found.mean, max(found.low, 0.0), min(found.high, 1.0)


def share_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """``first`` minus ``second``, shares ``[S, E]`` as :func:`share` takes them, of the same episodes."""
    change = np.asarray(first, dtype=np.float64) - second
    if not _variance(change)[0] and first.flat[0] in (0.0, 1.0) and second.flat[0] in (0.0, 1.0):
        return rate_difference(first > 0.5, second > 0.5)
    found = crossed_mean(change)
    return Estimate(found.mean, max(found.low, -1.0), min(found.high, 1.0), found.p)


def rate(success: np.ndarray) -> Interval:
    """The share of successes ``[S, E]``, bool, with its interval."""
    success = np.asarray(success, bool)
    variance, degrees = _variance(success.astype(np.float64))
    share = float(success.mean())
    if variance == 0.0:
        return wilson(int(success[0].sum()), success.shape[1])
    quantile = float(t.ppf((1 + LEVEL) / 2, degrees))
    # As many independent episodes, at most those that there are.
    count = share * (1 - share) / max(variance, share * (1 - share) / success.size)
    centre = (share + quantile**2 / (2 * count)) / (1 + quantile**2 / count)
    margin = quantile * (share * (1 - share) / count + quantile**2 / (4 * count**2)) ** 0.5 / (1 + quantile**2 / count)
    return share, centre - margin, centre + margin


def rate_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """``first`` minus ``second``, both ``[S, E]`` bool on the same episodes; an arm without training has one row."""
    first, second = np.broadcast_arrays(np.asarray(first, bool), np.asarray(second, bool))
    change = first.astype(float) - second
    counted = slice(None) if _variance(change)[0] else slice(1)
    compared = compare(first[counted].ravel(), second[counted].ravel())
    pooled = compared["difference"], compared["low"], compared["high"]
    estimate = crossed_mean(change).joined(pooled, compared["p"])
    return Estimate(estimate.mean, max(estimate.low, -1.0), min(estimate.high, 1.0), estimate.p)


def holm[Key](p: dict[Key, float]) -> dict[Key, float]:
    """Holm's (1979) step-down adjustment: p times the number of hypotheses still standing, never falling, at most 1."""
    adjusted: dict[Key, float] = {}
    highest = 0.0
    for index, key in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - index) * p[key]))
        adjusted[key] = highest
    return adjusted
