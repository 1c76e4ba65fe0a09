"""The measures behind the adapter's risk: how large a correction is, and how far a decision lies from known ones.

Shapes: B windows, n steps of a span, D action dim, K factors, E factor dim, F pooled prefix features (P·d), m reference
windows, d width of a text embedding. Own design; the source's card names a risk-aware scale and gives no formula. Sizes
take NumPy arrays or torch tensors; distances are NumPy only, so that a robot's controller computes them from the two
calibration files alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sigma.shared.errors import SigmaError

NEIGHBOURS = 3
# Rows compared at once, so that memory does not grow with the dataset.
BLOCK = 4096
# Normalised units: a base that moves less than 2.5 % of a joint's range counts as moving that much, because a ratio to
# a base that stands still would be without bound.
MOTION_FLOOR = 0.05
# A feature that hardly varies in calibration is not allowed to dominate the distance.
DEVIATION_FLOOR = 0.1


@dataclass(frozen=True)
class Measures:
    """What the risk reads beside an action and its correction, NumPy or torch as they are.

    A measure that is None adds nothing to the risk: a model without telepathy has no factors and no alignment, and the
    card's call gives no more than these two.
    """

    telepathy_factors: Any = None  # [B, K, E] τ
    alignment: Any = None  # [B] cosine of semantic factors and instruction
    hold: Any = None  # [B, D] the state now as a normalised action: what holding still would command
    feature_distance: Any = None  # [B] from the calibration windows
    text_distance: Any = None  # [B] from the calibration instructions


def rms(values: Any) -> Any:
    """Root mean square of ``[B, ...]`` over everything but the first axis: ``[B]``.

    Values are clipped to ±1e15 first, whose square float32 still holds: a huge residual has a huge risk, not NaN.
    """
    xp = array_namespace(values)
    values = xp.clip(values, -1e15, 1e15)
    return xp.sqrt(xp.mean(values * values, axis=tuple(range(1, values.ndim))))


def motion_ratio(residual: Any, base_action: Any, hold: Any = None) -> Any:
    """Size of the residual over the base's own motion on the same span: ``[B]``.

    ``residual`` and ``base_action`` are ``[B, D]`` or ``[B, n, D]``; ``hold`` ``[B, D]`` is the state now in the
    action's normalised units. Without it the motion is measured from the middle of every joint's range.
    """
    xp = array_namespace(residual, base_action)
    if hold is not None:
        base_action = base_action - (hold if base_action.ndim == 2 else xp.expand_dims(hold, axis=1))
    return rms(residual) / (rms(base_action) + MOTION_FLOOR)


def feature_distance(
    features: np.ndarray,
    calibration_features: np.ndarray,
    *,
    episodes: np.ndarray | None = None,
    calibration_episodes: np.ndarray | None = None,
    neighbours: int = NEIGHBOURS,
) -> np.ndarray:
    """Distance of each row of ``features [n, F]`` to its k-th nearest row of ``calibration_features [m, F]``: ``[n]``.

    Dimensions are divided by their deviation over the calibration rows (floored at a tenth of the typical one), and the
    distance is the root mean square over them, so that F does not set its scale. With ``episodes`` and
    ``calibration_episodes`` rows of the same episode are left out: this is how calibration windows are measured against
    each other. Where fewer than ``neighbours`` rows are left the farthest of them counts; where none is left a
    :class:`SigmaError` says so. A row that is not finite has a distance that is not finite.
    """
    from scipy.spatial.distance import cdist

    features = np.asarray(features, dtype=np.float64)
    reference = np.asarray(calibration_features, dtype=np.float64)
    shapes = f"features {features.shape} and calibration features {reference.shape}"
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise ValueError(f"{shapes} must be [n, F] and [m, F]")
    deviation = reference.std(axis=0)
    typical = sqrt(float(np.mean(deviation**2))) or 1.0
    deviation = np.maximum(deviation, DEVIATION_FLOOR * typical)
    result = np.empty(len(features))
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = cdist(features[rows] / deviation, reference / deviation) / sqrt(features.shape[1])
        left_out = np.zeros(distances.shape, dtype=bool)
        if episodes is not None and calibration_episodes is not None:
            left_out = np.equal.outer(np.asarray(episodes)[rows], np.asarray(calibration_episodes))
        distances[left_out] = np.inf
        left = len(reference) - left_out.sum(axis=1)
        if left.min() == 0:
            raise SigmaError(
                "adapter calibration: windows are compared with those of other validation episodes and none is left; "
                "legal: at least 2 validation episodes"
            )
        nearest = np.sort(distances, axis=1)
        result[rows] = nearest[np.arange(len(distances)), np.minimum(neighbours, left) - 1]
    return result


def text_distance(texts: np.ndarray, calibration_texts: np.ndarray) -> np.ndarray:
    """Cosine distance of each embedding ``[n, d]`` to the nearest row of ``calibration_texts [m, d]``: ``[n]``."""

    def unit(rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.float64)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    return np.clip(1.0 - (unit(texts) @ unit(calibration_texts).T).max(axis=1), 0.0, 2.0)


def distances(features: np.ndarray, texts: np.ndarray, reference: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``feature_distance`` and ``text_distance`` of new decisions, float32 ``[B]``, as :class:`Measures` names them.

    ``features [B, F]`` are pooled features of the frozen base, ``texts [B, d]`` embeddings of the instructions,
    ``reference`` what :func:`~sigma.policy.adapter.calibration.read_reference` returned.
    """
    return {
        "feature_distance": feature_distance(features, reference["features"]).astype(np.float32),
        "text_distance": text_distance(texts, reference["texts"]).astype(np.float32),
    }
