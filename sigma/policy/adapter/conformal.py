"""How surprising a score is beside ordinary ones: a conformal p-value that goes on falling beyond the largest of them.

Of n ordinary scores and a new one x, drawn alike, p(x) = (1 + #{ordinary ≥ x}) / (n + 1) is at most p with probability
p, whatever their distribution (Vovk et al. 2005). It has the floor 1 / (n + 1): with 60 windows nothing could be rarer
than 1.6 %. So beyond the largest ordinary score it falls further, by a factor of e for each ``tail``, the mean excess
of the highest tenth (an exponential tail, as in peaks over threshold). There p is a model's word, not a count.

Shapes: B windows, n ordinary scores. Takes NumPy arrays or torch tensors.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

# A tail is at least this share of the largest score: ordinary scores that are all alike leave some freedom.
_TAIL_SHARE = 0.05


@dataclass(frozen=True)
class Ordinary:
    """Scores of ordinary windows, ascending float64 ``[n]``, and the ``tail`` (> 0) beyond the largest; n may be 0."""

    tail: float
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, scores: np.ndarray, least_tail: float = 1e-6) -> "Ordinary":
        """From finite scores in any order; the tail is at least ``least_tail``."""
        scores = np.sort(np.asarray(scores, dtype=np.float64))
        if not len(scores):
            return cls(least_tail)
        threshold = np.quantile(scores, 0.9)
        excess = float((scores[scores >= threshold] - threshold).mean())
        return cls(max(excess, _TAIL_SHARE * abs(float(scores[-1])), least_tail), scores)

    def surprise(self, x: Any) -> Any:
        """−ln p of each score ``[B]``: 0 or more, never falling as x rises, finite where x is.

        −inf stands for a score that could not be measured, and is no surprise; NaN is without bound.
        """
        xp, count = array_namespace(x), len(self.scores)
        known = xp.asarray(self.scores, dtype=x.dtype, device=device(x))
        below = xp.astype(xp.searchsorted(known, x), x.dtype)
        rank = xp.log(xp.asarray(count + 1.0, dtype=x.dtype, device=device(x))) - xp.log(count + 1.0 - below)
        largest = float(self.scores[-1]) if count else 0.0
        surprise = rank + xp.clip(x - largest, 0.0, float("inf")) / self.tail
        return xp.where(xp.isnan(x), xp.full_like(x, float("inf")), surprise)
