"""Statistics of state and action, as π0.5's quantile normalisation needs them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from sigma.shared.errors import SigmaError

Statistics = dict[str, list[float]]
# A joint that travels this many times farther than in the base's statistics, and less there than the others by as
# much, was held still when those were made.
MOST_SPANS = 100.0


def feature_statistics(values: np.ndarray) -> Statistics:
    """Statistics by column of float [N, D], in float64; quantiles are exact, interpolated between order statistics.

    LeRobot's own running statistics estimate quantiles from histograms and average them over episodes.
    """
    exact = np.asarray(values, dtype=np.float64)
    q01, q99 = np.quantile(exact, [0.01, 0.99], axis=0, method="linear")
    columns = {"q01": q01, "q99": q99, "mean": exact.mean(axis=0), "std": exact.std(axis=0)}
    columns |= {"min": exact.min(axis=0), "max": exact.max(axis=0)}
    return {name: column.tolist() for name, column in columns.items()}


def refuse_constant_joints(
    statistics: dict[str, Statistics], joint_names: Sequence[str], excluded: Collection[str]
) -> None:
    """Raise :class:`SigmaError` for the first joint whose 1 % and 99 % quantiles coincide: it cannot be normalised."""
    for feature, columns in statistics.items():
        for name, low, high in zip(joint_names, columns["q01"], columns["q99"], strict=True):
            if low == high and name not in excluded:
                raise SigmaError(
                    f"{feature}: joint {name!r} has equal 1 % and 99 % quantiles ({low:g}) in the train episodes and "
                    f"cannot be normalised; name it in params.yaml: window.exclude_joints to leave it out of the scores"
                )


def check_still_joints(
    base: Mapping[str, Any], joints: Sequence[str], excluded: Collection[str], stored: Mapping[str, Any]
) -> None:
    """Raise :class:`SigmaError` for a joint that never moves in the statistics of the ``base``, which normalise it.

    ``stored`` holds the dataset's ``min`` and ``max`` of state and action, where these are known.
    """
    for feature in sorted(base["statistics"], reverse=True):
        columns, own = base["statistics"][feature], stored.get(feature, {})
        travels = [np.ravel(own["max"]) - np.ravel(own["min"])] if {"min", "max"} <= own.keys() else []
        spans = np.subtract(columns["q99"], columns["q01"])[: len(joints)]
        for place, (name, span) in enumerate(zip(joints, spans.tolist(), strict=True)):
            moves = [float(travel[place]) for travel in travels if len(travel) == len(joints)]
            # Where all joints move farther, the dataset is in other units: the audit's to say.
            held = MOST_SPANS * span < np.median(spans) and any(move > MOST_SPANS * span for move in moves)
            if name not in excluded and (span <= 0 or held):
                here = f" (by {span:.3g}, and in this dataset by {moves[0]:.3g})" if span > 0 else ""
                raise SigmaError(
                    f"params.yaml: base.statistics: found checkpoint, in which {feature} of joint {name!r} never "
                    f"moves{here}; legal: dataset, or name the joint in window.exclude_joints"
                )


def spread(columns: Statistics) -> np.ndarray:
    """Raw units in one normalised unit, float64 [D]: half the distance of the quantiles; inf for a constant joint."""
    half = (np.array(columns["q99"]) - np.array(columns["q01"])) / 2
    return np.where(half > 0, half, np.inf)
