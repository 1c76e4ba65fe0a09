"""How good a gate is, from played episodes: does its risk know which of them fail, and how often is it wrong."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def auroc(scores: Sequence[float], positive: Sequence[bool] | np.ndarray) -> float | None:
    """The chance that a positive has a higher score than a negative, a tie counting half; None without one of each."""
    from scipy.stats import rankdata

    chosen = np.asarray(positive, dtype=bool)
    count, others = int(chosen.sum()), int((~chosen).sum())
    if not count or not others:
        return None
    ranks = rankdata(np.asarray(scores, dtype=np.float64))
    return float((ranks[chosen].sum() - count * (count + 1) / 2) / (count * others))


def gate_measures(
    success: Sequence[bool], risks: Sequence[Sequence[float]], scales: Sequence[Sequence[float]], *, first: int
) -> dict[str, Any]:
    """Success and failure against open and closed, episode by episode, and how well the risk tells them apart.

    ``risks`` and ``scales`` hold an episode's decisions each. An episode counts as closed where the scale of any of its
    first ``first`` decisions lies below one half: a failed episode lasts longer, and whatever happens then would be
    known too late. ``false_alarms`` is the share of closed decisions in episodes that succeed, ``balanced_accuracy``
    that of "closed" as a word for "will fail".
    """
    won = np.asarray(success, dtype=bool)
    early = [np.asarray(row[:first], dtype=np.float64) for row in scales]
    closed = np.array([(row < 0.5).any() for row in early])
    table = {
        f"{name}_{state}": int((chosen & (closed == (state == "closed"))).sum())
        for name, chosen in (("success", won), ("failure", ~won))
        for state in ("open", "closed")
    }
    ordinary = [np.asarray(row) for row, good in zip(scales, won, strict=True) if good]
    rates = [float((closed == ~won)[chosen].mean()) for chosen in (won, ~won) if chosen.any()]
    return {
        **table,
        "auroc_failure": auroc([max(row[:first]) for row in risks], ~won),
        "balanced_accuracy": sum(rates) / 2 if len(rates) == 2 else None,
        "false_alarms": float((np.concatenate(ordinary) < 0.5).mean()) if ordinary else None,
    }
