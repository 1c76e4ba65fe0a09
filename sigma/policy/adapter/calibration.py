"""What ordinary corrections look like: the measures behind the adapter's risk, and their quantiles on validation
windows.

Shapes: B or W windows, n steps of a branch's span, T horizon, D action dim, F pooled prefix features (P·d), m reference
windows. Own design; the source's card names a risk-aware scale and gives no formula. The measures take NumPy arrays or
torch tensors; the distances are NumPy only, so that a robot's controller computes them from the two calibration files
alone.
"""

from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from sigma.shared.errors import SigmaError
from sigma.shared.files import Outputs, digest_file, read_json
from sigma.shared.records import AGAIN, POSITIVE, check_record

BRANCHES = ("vector", "chunk", "trajectory")
FORMAT_VERSION = 1
NEIGHBOURS = 3
REFERENCE_WINDOWS = 1024
_OF_FACTORS = ("misalignment_q95", "tau_l2_median", "tau_l2_deviation_q95")
_FORM = {
    "windows": int,
    "branches": {branch: dict.fromkeys(("residual_q95", "motion_ratio_q95"), POSITIVE) for branch in BRANCHES},
    "feature_distance_q95": POSITIVE,
    "reference": {"file": str, "sha256": str},
}
# Rows compared at once, so that memory does not grow with the dataset.
BLOCK = 4096
# Normalised units: a base that moves less than 2.5 % of a joint's range counts as moving that much.
MOTION_FLOOR = 0.05
# Keeps a quantile that is zero on the calibration windows from becoming a divisor.
QUANTILE_FLOOR = 1e-6
# A feature that hardly varies in calibration is not allowed to dominate the distance.
DEVIATION_FLOOR = 0.1


def rms(values: Any) -> Any:
    """Root mean square of ``[B, ...]`` over everything but the first axis: ``[B]``; beyond ±1e15 a value counts as
    that."""
    xp = array_namespace(values)
    values = xp.clip(values, -1e15, 1e15)
    return xp.sqrt(xp.mean(values * values, axis=tuple(range(1, values.ndim))))


def motion_ratio(residual: Any, base_action: Any, hold: Any | None = None) -> Any:
    """Size of the residual over the base's own motion on the same span: ``[B]``.

    ``residual`` and ``base_action`` are ``[B, D]`` or ``[B, n, D]``; ``hold`` ``[B, D]`` is the state now in the
    action's normalised units. Without it the motion is measured from the middle of every joint's range.
    """
    xp = array_namespace(residual, base_action)
    if hold is None:
        motion = base_action
    else:
        motion = base_action - (hold if base_action.ndim == 2 else xp.expand_dims(hold, axis=1))
    return rms(residual) / (rms(motion) + MOTION_FLOOR)


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
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise ValueError(
            f"features {features.shape} and calibration features {reference.shape} must be [n, F] and [m, F]"
        )
    deviation = reference.std(axis=0)
    typical = sqrt(float(np.mean(deviation**2))) or 1.0
    deviation = np.maximum(deviation, DEVIATION_FLOOR * typical)
    own = np.zeros((len(features), 1), dtype=np.int64), np.ones((1, len(reference)), dtype=np.int64)
    if episodes is not None:
        own = np.asarray(episodes)[:, None], np.asarray(calibration_episodes)[None, :]
    result = np.empty(len(features))
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = cdist(features[rows] / deviation, reference / deviation) / sqrt(features.shape[1])
        left_out = own[0][rows] == own[1]
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
    rows, reference = (np.asarray(array, dtype=np.float64) for array in (texts, calibration_texts))
    rows, reference = (
        array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12) for array in (rows, reference)
    )
    return np.clip(1.0 - (rows @ reference.T).max(axis=1), 0.0, 2.0)


def reference_set(features: np.ndarray, episodes: np.ndarray, texts: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that new windows are compared with: at most 1024 evenly spaced rows of ``features [W, F]``, their
    episodes, and the calibration instructions' embeddings ``texts [n, d]``."""
    rows = np.unique(np.linspace(0, len(features) - 1, min(len(features), REFERENCE_WINDOWS)).round().astype(np.int64))
    return {
        "features": np.ascontiguousarray(np.asarray(features)[rows], dtype=np.float32),
        "episodes": np.asarray(episodes)[rows].astype(np.int64),
        "texts": np.ascontiguousarray(texts, dtype=np.float32),
    }


def _quantile(values: np.ndarray, level: float, name: str) -> float:
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise SigmaError(f"adapter calibration: {name} of the validation windows is empty or not finite")
    return max(float(np.quantile(values, level)), QUANTILE_FLOOR)


def calibrate(
    *,
    base_action: np.ndarray,
    hold: np.ndarray,
    corrections: Mapping[str, np.ndarray],
    tau_l2: np.ndarray | None,
    alignment: np.ndarray | None,
    feature_distance: np.ndarray,
    episodes: np.ndarray,
    instructions: list[str],
) -> dict[str, Any]:
    """Quantiles of every measure over validation windows, as the adapter takes them.

    ``base_action [W, T, D]``, ``hold [W, D]`` and ``corrections`` (``vector [W, 1, D]``, ``chunk [W, C, D]``,
    ``trajectory [W, T, D]``: what scale 1 adds to the base action) in normalised units; ``tau_l2``, ``alignment``,
    ``feature_distance`` (rows of the same episode left out) and ``episodes`` ``[W]``. A model without factors gives
    None for ``tau_l2`` and ``alignment``; their quantiles are then null, and the adapter cannot be given either.
    """
    branches = {}
    for branch in BRANCHES:
        correction = np.asarray(corrections[branch], dtype=np.float64)
        base = np.asarray(base_action, dtype=np.float64)[:, : correction.shape[1]]
        ratio = motion_ratio(correction, base, np.asarray(hold, dtype=np.float64))
        branches[branch] = {
            "residual_q95": _quantile(rms(correction), 0.95, f"the {branch} residual"),
            "motion_ratio_q95": _quantile(ratio, 0.95, f"the {branch} residual over the base's motion"),
        }
    telepathy: dict[str, float | None] = dict.fromkeys(("misalignment_q95", "tau_l2_median", "tau_l2_deviation_q95"))
    if alignment is not None:
        telepathy["misalignment_q95"] = _quantile(1.0 - np.asarray(alignment, dtype=np.float64), 0.95, "1 - alignment")
    if tau_l2 is not None:
        centre = telepathy["tau_l2_median"] = float(np.median(np.asarray(tau_l2, dtype=np.float64)))
        deviation = _quantile(np.abs(np.asarray(tau_l2) - centre), 0.95, "tau_l2")
        # Within 1 % of the median is never unusual, however narrow the calibration windows lie.
        telepathy["tau_l2_deviation_q95"] = max(deviation, 0.01 * abs(centre))
    return {
        "format_version": FORMAT_VERSION,
        "windows": len(episodes),
        "episodes": len(np.unique(episodes)),
        "instructions": sorted(instructions),
        "branches": branches,
        **telepathy,
        "feature_distance_q95": _quantile(feature_distance, 0.95, "the feature distance"),
        "feature_neighbours": NEIGHBOURS,
    }


def write_calibration(path: Path, calibration: Mapping[str, Any], reference: Mapping[str, np.ndarray]) -> None:
    """Write the quantiles as JSON to ``path`` and the reference arrays beside it as safetensors, tied by a digest."""
    from safetensors.numpy import save_file

    arrays = Path(path).with_suffix(".safetensors")
    with Outputs() as outputs:
        temporary = outputs.file(arrays)
        save_file(dict(reference), temporary)
        digest = digest_file(temporary)
        outputs.json(path, {**calibration, "reference": {"file": arrays.name, "sha256": digest}})


def read_calibration(path: Path) -> dict[str, Any]:
    """The quantiles of :func:`calibrate`; another format version, and what is no calibration, are refused."""
    calibration = read_json(path)
    version = calibration.get("format_version") if isinstance(calibration, dict) else None
    if version != FORMAT_VERSION:
        raise SigmaError(f"{path}: format_version: found {version!r}; legal: {FORMAT_VERSION}")
    check_record(calibration, _FORM, f"{path}: ", AGAIN)
    for key in _OF_FACTORS:
        if calibration.get(key) is not None:
            check_record(calibration[key], POSITIVE, f"{path}: ", AGAIN, key)
    arrays = Path(path).with_suffix(".safetensors").name
    if calibration["reference"]["file"] != arrays:
        found = calibration["reference"]["file"]
        raise SigmaError(f"{path}: reference.file: found {found!r}; legal: {arrays}; {AGAIN}")
    return calibration


def read_reference(path: Path) -> dict[str, np.ndarray]:
    """The reference arrays of the calibration at ``path`` (the JSON file): ``features``, ``episodes``, ``texts``."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    entry = read_calibration(path)["reference"]
    arrays = Path(path).parent / entry["file"]
    if not arrays.is_file() or digest_file(arrays) != entry["sha256"]:
        raise SigmaError(f"{arrays}: missing or altered since {Path(path).name} was written; run the stage again")
    try:
        return load_file(arrays)
    except SafetensorError as error:
        raise SigmaError(f"{arrays}: not readable as safetensors ({error})") from None
