"""What a decision sees and feels beside what training saw: pictures, joints, and what changed since the last decision.

Shapes: B decisions, n reference decisions, V cameras, F features of a camera, k axes, D joints, S control steps of the
motion, q parts of a score (cameras or joints). NumPy alone. Own design.

A picture's features are split into k axes along which the reference pictures vary and the rest, and its distance is
that of probabilistic principal components (Tipping and Bishop 1999). A joint is predicted from the picture and from
the other joints and their products, by ridge regression: joints that fit no picture, and pictures that fit no joints,
stand out, though each of them was seen before.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

AXES = 32
_RIDGE = 3.0
# Of a command, from which it is told how far behind it a joint usually is: jaws that hold something stop far from where
# they are told to close, and open without a lag.
LAG_POWERS = 4
# Of the standardised axes of a picture: pictures nearer than this count as the same one.
_SAME = 0.05
Reference = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Sight:
    """B decisions, or what the robot had seen and been told when they came."""

    axes: np.ndarray  # [B, V, k]
    distance: np.ndarray  # [B, V]
    state: np.ndarray  # [B, D] raw units
    motion: np.ndarray  # [B, S, D]


def _spread(rows: np.ndarray) -> np.ndarray:
    """Deviation along the first axis; what hardly varies is not blown up."""
    spread = rows.std(axis=0)
    return np.maximum(spread, max(0.05 * float(np.sqrt(np.mean(spread**2))), 1e-6))


def fit_views(features: np.ndarray) -> dict[str, np.ndarray]:
    """Axes of the reference pictures' features ``[n, V, F]``, each camera's by itself."""
    features = np.asarray(features, dtype=np.float64)
    count, _, width = features.shape
    axes = max(1, min(AXES, count // 4, width - 1))
    mean = features.mean(axis=0)
    parts: dict[str, list[np.ndarray]] = {"axes": [], "spread": [], "rest": []}
    for centred in np.moveaxis(features - mean, 1, 0):
        _, values, directions = np.linalg.svd(centred, full_matrices=False)
        variance = values**2 / count
        parts["axes"].append(directions[:axes])
        parts["spread"].append(np.sqrt(variance[:axes]))
        parts["rest"].append(np.sqrt(variance[axes:].sum() / (width - axes)))
    stacked = {f"views_{name}": np.stack(part) for name, part in parts.items()}
    for name in ("views_spread", "views_rest"):  # axes along which nothing varies
        stacked[name] = np.maximum(stacked[name], max(1e-3 * float(stacked[name].max()), 1e-9))
    return {"views_mean": mean, **stacked}


def project(features: np.ndarray, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """Standardised axes ``[B, V, k]`` of pictures' features ``[B, V, F]``, and their distances ``[B, V]``."""
    centred = np.asarray(features, dtype=np.float64) - reference["views_mean"]
    along = np.einsum("bvf,vkf->bvk", centred, reference["views_axes"])
    rest = np.maximum((centred**2).sum(axis=2) - (along**2).sum(axis=2), 0.0)
    axes = along / reference["views_spread"]
    squares = (axes**2).sum(axis=2) + rest / reference["views_rest"] ** 2
    return axes, np.sqrt(squares / centred.shape[2])


def _joint_features(state: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Standardised joints ``[B, D]``, their products in pairs, and the pictures' axes."""
    first, second = np.triu_indices(state.shape[1])
    return np.concatenate([state, state[:, first] * state[:, second], axes.reshape(len(axes), -1)], axis=1)


def _powers(command: np.ndarray) -> np.ndarray:
    """Powers ``[D, n, LAG_POWERS]`` of standardised commands ``[n, D]``."""
    return np.moveaxis(command[..., None] ** np.arange(LAG_POWERS), 1, 0)


def fit_joints(sight: Sight, command: np.ndarray) -> dict[str, np.ndarray]:
    """How joints follow from pictures and other joints, how they move, and where commands lead them.

    ``command [n, D]`` is what the last control step before each decision asked for, raw units, NaN where there was
    none.
    """
    mean, spread = sight.state.mean(axis=0), _spread(sight.state)
    state = (sight.state - mean) / spread
    features = _joint_features(state, sight.axes)
    centre, width = features.mean(axis=0), _spread(features)
    features = (features - centre) / width
    joints = state.shape[1]
    first, second = np.triu_indices(joints)
    weights = np.zeros((features.shape[1], joints))
    for joint in range(joints):
        own = np.concatenate([np.arange(joints) == joint, (first == joint) | (second == joint)])
        others = np.ones(features.shape[1], dtype=bool)
        others[: len(own)] = ~own
        chosen = features[:, others]
        square = chosen.T @ chosen + _RIDGE * np.eye(chosen.shape[1])
        weights[others, joint] = np.linalg.solve(square, chosen.T @ state[:, joint])
    told = np.isfinite(command).all(axis=1)
    lag = np.zeros((LAG_POWERS, joints))
    if told.any():
        asked, behind = (command[told] - mean) / spread, (sight.state - command)[told] / spread
        for joint, powers in enumerate(_powers(asked)):
            lag[:, joint] = np.linalg.lstsq(powers, behind[:, joint], rcond=None)[0]
    motion = sight.motion.astype(np.float64)
    return {
        "state_mean": mean,
        "state_spread": spread,
        "joint_centre": centre,
        "joint_width": width,
        "joint_weights": weights,
        "lag_weights": lag,
        "motion_mean": motion.mean(axis=0),
        "motion_spread": _spread(motion) if motion.size else motion[0],
    }


def parts(
    now: Sight, before: Sight, command: np.ndarray, known: np.ndarray, reference: Reference
) -> dict[str, np.ndarray]:
    """Unusual parts of B decisions, ``[B, q]`` by term, in units of their own.

    ``before`` is the decision before each, ``command [B, D]`` the last thing that it told the robot, raw units;
    ``known [B]`` is False where there was none, and the rows of both count for nothing. What was told may be NaN where
    nothing says it.
    """
    spread = reference["state_spread"]
    state = (now.state - reference["state_mean"]) / spread
    features = (_joint_features(state, now.axes) - reference["joint_centre"]) / reference["joint_width"]
    moved = np.sqrt((((now.state - before.state) / spread) ** 2).mean(axis=1, keepdims=True))
    changed = np.sqrt(((now.axes - before.axes) ** 2).mean(axis=2))
    asked = (command - reference["state_mean"]) / spread
    usual = np.stack(
        [powers @ reference["lag_weights"][:, joint] for joint, powers in enumerate(_powers(asked))], axis=1
    )
    behind = np.abs((now.state - command) / spread - usual)
    never = np.where(known, 0.0, -np.inf)[:, None]
    found = {
        "picture": now.distance,
        "change": np.where(known[:, None], moved / (changed + _SAME), never),
        "state": np.abs(state - features @ reference["joint_weights"]),
        "tracking": np.where((known & np.isfinite(command).all(axis=1))[:, None], behind, -np.inf),
    }
    if now.motion.shape[1]:
        motion = np.abs(now.motion - reference["motion_mean"]) / reference["motion_spread"]
        found["motion"] = motion.max(axis=1)
    return found
