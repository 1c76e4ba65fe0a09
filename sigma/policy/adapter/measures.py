"""What plans and factors say of a decision: scores that rise with how unusual it is.

Shapes: B windows, T steps of a plan, D action dim, K factors, E factor dim. Takes NumPy arrays or torch tensors.
"""

from math import prod
from typing import Any

from array_api_compat import array_namespace


def rms(values: Any) -> Any:
    """Root mean square of ``[B, ...]`` over everything but the first axis: ``[B]``.

    Values are clipped to ±1e15 first, whose square float32 still holds: a huge residual has a huge risk, not NaN.
    """
    xp = array_namespace(values)
    values = xp.clip(values, -1e15, 1e15)
    return xp.sqrt(xp.mean(values * values, axis=tuple(range(1, values.ndim))))


def finite_rows(array: Any) -> Any:
    """Which rows of ``[B, ...]`` hold finite numbers alone, bool ``[B]``."""
    xp = array_namespace(array)
    return xp.all(xp.isfinite(array), axis=tuple(range(1, array.ndim)))


def residual_size(residual: Any) -> Any:
    """Rms of residuals ``[B, ...]``; one that is not finite counts as zero, as it is executed: ``[B]``."""
    xp = array_namespace(residual)
    sound = xp.reshape(finite_rows(residual), (-1,) + (1,) * (residual.ndim - 1))
    return rms(xp.where(sound, residual, xp.zeros_like(residual)))


def telepathy_measures(factors: Any, alignment: Any, centre: float | None) -> dict[str, Any]:
    """``tau``, how far the norm of the factors ``[B, K, E]`` lies from ``centre``, by default √(K·E), as a share of
    it, and ``alignment``, one minus the semantic alignment ``[B]``; what is None gives no score."""
    measures = {}
    if factors is not None:
        xp = array_namespace(factors)
        norm = xp.sqrt(xp.sum(factors * factors, axis=tuple(range(1, factors.ndim))))
        measures["tau"] = xp.abs(norm / (centre or prod(factors.shape[1:]) ** 0.5) - 1.0)
    if alignment is not None:
        measures["alignment"] = 1.0 - alignment
    return measures


def disagreement(plan: Any, before: Any, passed: int) -> Any:
    """How far a plan ``[B, T, D]`` lies from the plan of ``passed`` control steps before on the steps that they share,
    rms ``[B]``; −inf where they share none."""
    xp = array_namespace(plan)
    shared = plan.shape[1] - passed
    if shared < 1:
        return xp.full_like(plan[:, 0, 0], -float("inf"))
    return rms(plan[:, :shared] - before[:, passed:])
