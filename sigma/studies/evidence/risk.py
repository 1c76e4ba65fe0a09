"""Is the adapter's risk calibrated? Error of the whole correction (scale 1) against the risk that it was given.

Own design. Legend: W windows, n windows of one group.
"""

import numpy as np

from sigma.evaluation.intervals import LEVEL
from sigma.shared.seeding import generator


def spearman(
    risk: np.ndarray, error: np.ndarray, episodes: np.ndarray, *, resamples: int, seed: int
) -> dict[str, float]:
    """Rank correlation of ``risk [W]`` and ``error [W]`` with a 95 % percentile interval over whole episodes.

    Where either is constant there is no correlation to speak of: it is 0, and so are the bounds.
    """
    from scipy.stats import bootstrap, rankdata

    def correlation(rows: np.ndarray) -> float:
        first, second = rankdata(risk[rows]), rankdata(error[rows])
        if np.ptp(first) == 0 or np.ptp(second) == 0:
            return 0.0
        return float(np.corrcoef(first, second)[0, 1])

    groups = [np.flatnonzero(episodes == episode) for episode in np.unique(episodes)]
    estimate = correlation(np.arange(len(risk)))
    if len(groups) < 2:
        return {"spearman": estimate, "lo": estimate, "hi": estimate}
    result = bootstrap(
        (np.arange(len(groups)),),
        lambda picks: correlation(np.concatenate([groups[pick] for pick in picks])),
        vectorized=False,
        n_resamples=resamples,
        confidence_level=LEVEL,
        method="percentile",
        rng=generator(seed, "spearman"),
    )
    low, high = result.confidence_interval
    return {"spearman": estimate, "lo": float(low), "hi": float(high)}
