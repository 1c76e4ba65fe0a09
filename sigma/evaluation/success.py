"""Success in closed loop: each arm with its interval, and arms compared on the same episodes.

- One arm: Wilson's score interval (1927).
- Two arms on the same episodes: Newcombe's hybrid score interval of the paired difference (1998, method 10), which
  keeps its coverage at few discordant pairs, where a bootstrap collapses; and McNemar's exact test on these pairs.

Legend: N episodes of one task.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from sigma.evaluation.intervals import LEVEL

Interval = tuple[float, float, float]  # estimate, lower and upper bound


def wilson(won: int, episodes: int) -> Interval:
    """Share of successes with its interval."""
    interval = binomtest(won, episodes).proportion_ci(confidence_level=LEVEL, method="wilson")
    return won / episodes, float(interval.low), float(interval.high)


def _with_bounds(name: str, interval: Interval) -> dict[str, float]:
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), interval, strict=True))


def score(
    success: Sequence[bool], progress: Sequence[float], wrong_box: Sequence[bool], failure: Sequence[str | None]
) -> dict[str, Any]:
    """What one arm did on N episodes, JSON-ready; ``failures`` counts the kinds that occurred."""
    return {
        "episodes": len(success),
        **_with_bounds("success", wilson(int(np.sum(success)), len(success))),
        "progress": float(np.mean(progress)),
        "wrong_box": int(np.sum(wrong_box)),
        "failures": dict(sorted(Counter(kind for kind in failure if kind is not None).items())),
    }


def difference_of_pairs(both: int, first: int, second: int, neither: int) -> Interval:
    """Newcombe's interval of p1 − p2, where ``first`` counts the episodes that only the first arm solved."""
    episodes = both + first + second + neither
    estimate = (first - second) / episodes
    p1, low1, high1 = wilson(both + first, episodes)
    p2, low2, high2 = wilson(both + second, episodes)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross = float(both * neither - first * second)
    if cross > 0:  # his continuity correction of a positive correlation
        cross = max(cross - episodes / 2, 0.0)
    phi = cross / np.sqrt(margins) if margins else 0.0

    def distance(a: float, b: float) -> float:
        return float(np.sqrt(max(a**2 - 2 * phi * a * b + b**2, 0.0)))

    return estimate, estimate - distance(p1 - low1, high2 - p2), estimate + distance(high1 - p1, p2 - low2)


def compare(first: np.ndarray, second: np.ndarray) -> dict[str, float | int]:
    """Successes ``[N]`` of two arms on the same episodes: the four counts, p1 − p2 with its interval, McNemar's p."""
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    interval = difference_of_pairs(both, only_first, only_second, neither)
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    counts = {"both": both, "only_first": only_first, "only_second": only_second}
    return counts | dict(zip(("difference", "low", "high"), interval, strict=True)) | {"p": p}
