"""Statistics of state and action, as π0.5's quantile normalisation needs them."""

from collections.abc import Collection, Sequence

import numpy as np

from sigma.shared.errors import SigmaError

Statistics = dict[str, list[float]]


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


def spread(columns: Statistics) -> np.ndarray:
    """Raw units in one normalised unit, float64 [D]: half the distance of the quantiles; inf for a constant joint."""
    half = (np.array(columns["q99"]) - np.array(columns["q01"])) / 2
    return np.where(half > 0, half, np.inf)
