"""Read what the model stages predicted, for scoring: arrays and JSON, without a model or torch.

Legend: W windows, T horizon, C chunk, D joints, S samples, K factors, E factor dim. Actions are in normalised units.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.policy.adapter.adapter import AGREEMENT, BEFORE
from sigma.shared.errors import SigmaError
from sigma.shared.quantiles import Quantiles
from sigma.shared.records import PREDICTED, REPLAY, read_record
from sigma.shared.tables import read_columns

SPLITS = ("test", "validation", "train")
IDENTITY = ("window", "episode", "step", "split")
BASELINE_COLUMNS = (
    *IDENTITY,
    *("task", "kept", "strided", "action", "valid", "hold", "base_action", "base_zero_noise", "base_samples"),
)
SIGMA_COLUMNS = (
    *IDENTITY,
    *("base_action", "sigma_action", "cleared_action", "tau", "tau_l2"),
    *("sem_align", "control_tau_l2", "control_sem_align"),
    *(f"gate_{term}" for term in BEFORE if term != "motion"),  # a dataset may keep no motion
    f"gate_{AGREEMENT}",
)
# Two passes of one base differ by less than this between batch shapes; another base or other windows differ by more.
SAME_BASE = 1e-3


@dataclass(frozen=True)
class Predictions:
    """Both tables, joined, and the facts of the shards and features that they were made from.

    ``base`` and ``sigma`` map a column's name to its array ``[W, ...]``. ``scored [D]`` is False at joints that the
    window stage excludes by name, ``critical [D]`` True at those whose movement makes a window critical.
    """

    base: dict[str, np.ndarray]
    sigma: dict[str, np.ndarray]
    shards: dict[str, Any]
    features: dict[str, Any]
    joints: list[str]
    scored: np.ndarray
    critical: np.ndarray
    quantiles: Quantiles
    frames: dict[int, list[tuple[str, bytes]]]

    @property
    def chunk(self) -> int:
        return min(self.shards["chunk"], self.horizon)

    @property
    def horizon(self) -> int:
        return self.base["action"].shape[1]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of one split's windows."""
        return np.flatnonzero(self.base["split"] == split)


def stored_measures(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The score of every term that is known before both actions are, from the columns of Sigma's table."""
    return {name.removeprefix("gate_"): score for name, score in columns.items() if name.startswith("gate_")}


def _check(base: dict[str, np.ndarray], sigma: dict[str, np.ndarray], first: Path, second: Path) -> None:
    """Refuse tables that are not of one run; ``first`` and ``second`` are their files, for messages."""
    for name in IDENTITY:
        if not np.array_equal(base[name], sigma[name]):
            raise SigmaError(f"{second}: column {name!r} differs from {first}; run the stage again (dvc repro)")
    if base["action"].ndim != 3:
        raise SigmaError(f"{first}: 'action': legal: steps and joints a row")
    windows, horizon, joints = plan = base["action"].shape
    shapes = {
        "valid": (windows, horizon),
        "hold": (windows, joints),
        **dict.fromkeys(("base_action", "base_zero_noise", "sigma_action", "cleared_action"), plan),
        "base_samples": (windows, base["base_samples"].shape[1], horizon, joints),
    }
    # Sigma's action is not among these: a residual that is not finite counts as zero, as it does on a robot.
    finite = (
        *("action", "hold", "base_action", "base_zero_noise", "base_samples"),
        *("tau_l2", "sem_align", "control_tau_l2", "control_sem_align"),
    )
    for path, columns in ((first, base), (second, sigma)):
        for name, shape in shapes.items():
            if name in columns and columns[name].shape != shape:
                raise SigmaError(f"{path}: column {name!r} has shape {columns[name].shape}, {shape} is needed")
        for name in finite:
            if name in columns and not np.isfinite(columns[name]).all():
                raise SigmaError(f"{path}: column {name!r} holds a value that is not finite; legal: finite numbers")
    if not np.allclose(base["base_action"], sigma["base_action"], rtol=SAME_BASE, atol=SAME_BASE):
        raise SigmaError(f"{second}: its base actions are not those of {first}; run the stage again (dvc repro)")
    if not (base["split"] == "test").any():
        raise SigmaError(f"{first}: no test window; legal: at least one test episode")


def _read_frames(path: Path) -> dict[int, list[tuple[str, bytes]]]:
    """JPEG pictures of each window's decision frame: window id -> (camera, bytes) in the cameras' order."""
    names = ("window", "camera", "jpeg")
    columns, _ = read_columns(path, names)
    frames: dict[int, list[tuple[str, bytes]]] = {}
    for window, camera, jpeg in zip(*(columns[name].tolist() for name in names), strict=True):
        frames.setdefault(window, []).append((camera, jpeg))
    return frames


def read_predictions(data: Path) -> Predictions:
    """Read the tables and pictures in ``data/predictions``, and what ``data`` says of the shards and features.

    Raises :class:`SigmaError`, naming file and column, where one is missing, not finite, or of another run.
    """
    baseline, corrected = (data / f"predictions/{name}.parquet" for name in ("baseline", "sigma"))
    base, sigma = read_columns(baseline, BASELINE_COLUMNS)[0], read_columns(corrected, SIGMA_COLUMNS)[0]
    _check(base, sigma, baseline, corrected)
    meta = data / "shards/meta.json"
    shards, features = read_record(meta, PREDICTED), read_record(data / "features/meta.json", REPLAY)
    joints = shards["joint_names"]
    if len(joints) != base["action"].shape[2]:
        raise SigmaError(
            f"{meta}: joint_names has {len(joints)} names, {baseline} has {base['action'].shape[2]} joints"
        )
    quantiles = Quantiles.from_json(features["normalisation"]["action"])
    scored = np.array([name not in shards["exclude_joints"] for name in joints])
    critical = np.array([name in shards["critical_joints"] for name in joints])
    frames = _read_frames(data / "predictions/frames.parquet")
    return Predictions(base, sigma, shards, features, joints, scored, critical, quantiles, frames)
