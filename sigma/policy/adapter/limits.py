"""The last gate before a motor: joint limits, a rate limit, and a stop on anything that is not a number."""

import numpy as np

from sigma.shared.errors import SigmaError


class NonFiniteActionError(SigmaError):
    """An action or a measured position holds NaN or infinity: the controller must stop, not clip."""


def limit_action(
    action: np.ndarray, previous: np.ndarray, lower: np.ndarray, upper: np.ndarray, max_step: np.ndarray | float
) -> np.ndarray:
    """Clamp ``action [..., D]`` to ``[lower, upper]`` and to at most ``max_step`` away from ``previous [..., D]``.

    All in the joints' raw units; ``max_step`` is a change per control step, for all joints or each. The rate limit
    wins: from inside the limits the result stays inside, from outside it moves back no faster than ``max_step``. Raises
    :class:`NonFiniteActionError` on NaN or infinity in ``action`` or ``previous``, :class:`ValueError` on limits that
    leave no room.
    """
    action, previous = np.asarray(action), np.asarray(previous)
    for name, values in (("action", action), ("previous position", previous)):
        if not np.isfinite(values).all():
            joints = sorted(set(np.nonzero(~np.isfinite(values))[-1].tolist()))
            raise NonFiniteActionError(f"{name}: not finite at joint index {joints}; legal: finite numbers")
    lower, upper, max_step = np.asarray(lower), np.asarray(upper), np.asarray(max_step)
    if not (lower <= upper).all() or not (max_step > 0).all():
        raise ValueError(f"limits leave no room: lower {lower}, upper {upper}, max_step {max_step}")
    target = np.clip(action, lower, upper)
    return np.clip(target, previous - max_step, previous + max_step).astype(action.dtype)
