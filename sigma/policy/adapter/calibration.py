"""What ordinary corrections look like: quantiles of the adapter's measures on validation windows, and their files.

Shapes: W windows, n steps of a span, T horizon, C chunk, D action dim, F pooled prefix features (P·d), d width of
a text embedding. Own design.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sigma.policy.adapter.measures import NEIGHBOURS, motion_ratio, rms
from sigma.shared.errors import SigmaError
from sigma.shared.files import Outputs, digest_file, read_json
from sigma.shared.records import AGAIN, POSITIVE, check_record
from sigma.shared.spans import SPANS

FORMAT_VERSION = 1
REFERENCE_WINDOWS = 1024
_FACTOR_QUANTILES = ("misalignment_q95", "tau_l2_median", "tau_l2_deviation_q95")
_FORM = {
    "windows": int,
    "branches": {span: dict.fromkeys(("residual_q95", "motion_ratio_q95"), POSITIVE) for span in SPANS},
    "feature_distance_q95": POSITIVE,
    "reference": {"file": str, "sha256": str},
}
# Keeps a quantile that is zero on the calibration windows from becoming a divisor.
QUANTILE_FLOOR = 1e-6


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
    by_span = {}
    for span in SPANS:
        correction = np.asarray(corrections[span], dtype=np.float64)
        base = np.asarray(base_action[:, : correction.shape[1]], dtype=np.float64)
        ratio = motion_ratio(correction, base, np.asarray(hold, dtype=np.float64))
        by_span[span] = {
            "residual_q95": _quantile(rms(correction), 0.95, f"the {span} residual"),
            "motion_ratio_q95": _quantile(ratio, 0.95, f"the {span} residual over the base's motion"),
        }
    telepathy: dict[str, float | None] = dict.fromkeys(_FACTOR_QUANTILES)
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
        "branches": by_span,
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
    for key in _FACTOR_QUANTILES:
        if calibration.get(key) is not None:
            check_record(calibration[key], POSITIVE, f"{path}: ", AGAIN, key)
    arrays = Path(path).with_suffix(".safetensors").name
    if calibration["reference"]["file"] != arrays:
        actual = calibration["reference"]["file"]
        raise SigmaError(f"{path}: reference.file: found {actual!r}; legal: {arrays}; {AGAIN}")
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
