"""Uncertainty of a paired difference, with whole episodes as the independent unit.

Windows of one episode resemble each other, so episodes are resampled, never windows: a resample draws episodes with all
their windows, and its statistic is the mean over the windows drawn. The point estimate is therefore exactly the
difference of the two window means that the metrics report.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sigma.shared.seeding import generator

LEVEL = 0.95
ENOUGH_EPISODES = 20
# A bound on resamples × episodes held in memory at once.
BATCH_NUMBERS = 2_000_000


@dataclass(frozen=True)
class Difference:
    """``second − first``: its mean over windows, its 95 % interval over episodes, and a sign-flip p."""

    first: float
    second: float
    delta: float
    low: float
    high: float
    p: float
    episodes: int

    @property
    def enough(self) -> bool:
        """Whether there are enough episodes for the interval to have the coverage that it claims."""
        return self.episodes >= ENOUGH_EPISODES

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval lies below 0; one episode has no interval."""
        return self.episodes >= 2 and self.high < 0.0

    def to_json(self, first: str, second: str) -> dict[str, Any]:
        """JSON-ready form, with ``first`` and ``second`` as the names of the two arms."""
        interval = {"delta": self.delta, "delta_lo": self.low, "delta_hi": self.high, "p": self.p}
        return {first: self.first, second: self.second, **interval}


def episode_sums(values: np.ndarray, episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of ``values [W]`` and number of windows of each episode."""
    _, index = np.unique(episodes, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(np.float64)


def _interval(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> tuple[float, float] | None:
    """The interval of Σ sums / Σ counts over episodes; None for a single episode, or where all have the same ratio."""
    from scipy.stats import bootstrap

    by_episode = sums / counts
    if np.ptp(by_episode) <= 1e-12 * np.abs(by_episode).max():
        return None

    def mean(total: np.ndarray, number: np.ndarray, axis: int = -1) -> np.ndarray:
        return total.sum(axis=axis) / number.sum(axis=axis)

    with np.errstate(all="ignore"):
        result = bootstrap(
            (sums, counts),
            mean,
            paired=True,
            n_resamples=resamples,
            batch=max(1, BATCH_NUMBERS // len(sums)),
            confidence_level=LEVEL,
            method="BCa",
            rng=generator(seed, "bootstrap"),
        )
    low, high = result.confidence_interval
    if np.isfinite([low, high]).all():
        return float(low), float(high)
    # BCa has no bias correction where the estimate lies at an end of the resamples; their quantiles always exist.
    low, high = np.quantile(result.bootstrap_distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _sign_flip(sums: np.ndarray, resamples: int, seed: int) -> float:
    from scipy.stats import permutation_test

    result = permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BATCH_NUMBERS // len(sums)),
        rng=generator(seed, "sign flip"),
    )
    return float(result.pvalue)


def paired_difference(
    first: np.ndarray, second: np.ndarray, episodes: np.ndarray, *, resamples: int, seed: int
) -> Difference:
    """Compare two arms on the same windows: ``first``, ``second`` and ``episodes`` are ``[W]``.

    The interval is SciPy's BCa bootstrap over episodes; where every episode has the same mean difference it is that
    number twice. p comes from flipping the sign of whole episodes. Never NaN; with one episode the interval is the
    estimate itself, p is 1, and :attr:`Difference.below_zero` is False.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sums, counts = episode_sums(second - first, episodes)
    delta = float((second - first).mean())
    low, high = _interval(sums, counts, resamples, seed) or (delta, delta)
    p = _sign_flip(sums, resamples, seed) if len(sums) >= 2 and np.any(sums != 0.0) else 1.0
    return Difference(float(first.mean()), float(second.mean()), delta, low, high, p, len(sums))


def ratio_of_means(
    first: np.ndarray, second: np.ndarray, episodes: np.ndarray, *, resamples: int, seed: int
) -> tuple[float, float, float]:
    """The mean of ``second`` over that of ``first`` on the same windows: estimate and 95 % interval over episodes.

    Both hold errors, ``[W]``, and ``first`` is positive in every episode.
    """
    totals = [episode_sums(np.asarray(values, dtype=np.float64), episodes)[0] for values in (first, second)]
    ratio = float(totals[1].sum() / totals[0].sum())
    return ratio, *(_interval(totals[1], totals[0], resamples, seed) or (ratio, ratio))
