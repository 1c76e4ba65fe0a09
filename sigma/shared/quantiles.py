"""LeRobot's QUANTILES normalisation, for NumPy arrays and torch tensors."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from array_api_compat import array_namespace, device

from sigma.shared.errors import SigmaError

if TYPE_CHECKING:
    import torch

Values = TypeVar("Values", np.ndarray, "torch.Tensor")
# A joint that travels this many times farther than in the base's statistics, and less there than the others by as
# much, was held still when those were made.
MOST_SPANS = 100.0


@dataclass(frozen=True, eq=False)
class Quantiles:
    """1st and 99th percentile of a feature, ``[D]`` float32, that map to −1 and 1 (values outside are not clipped).

    Bit-equal to LeRobot's ``NormalizerProcessorStep`` in QUANTILES mode, but for a dimension whose range is zero:
    LeRobot divides it by ``eps``, which makes 10⁷ of an encoder's tick; here it is −1, as it was in training.
    """

    q01: np.ndarray
    q99: np.ndarray
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("q01", "q99"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        if self.q01.ndim != 1 or self.q01.shape != self.q99.shape:
            raise SigmaError(f"quantiles need two vectors of one length, found {self.q01.shape} and {self.q99.shape}")
        if not (np.isfinite(self.q01).all() and np.isfinite(self.q99).all()):
            raise SigmaError("quantiles hold a value that is not finite")
        if (self.q99 < self.q01).any():
            raise SigmaError(f"quantiles: q99 lies below q01 in dimension {int(np.argmax(self.q99 < self.q01))}")

    @property
    def constant(self) -> np.ndarray:
        """Which dimensions have q01 = q99, ``[D]`` bool: they carry no information and normalise to huge numbers."""
        return self.q01 == self.q99

    def _like(self, values: Any, of_zero: float) -> tuple[Any, Any]:
        """q01 and the range q99 − q01, ``[D]`` each, in the type, precision and device of ``values``; ``of_zero`` takes
        the place of a range of zero."""
        # The difference is taken in the precision of the values, as LeRobot does: the result is bit-equal only so.
        xp, form = array_namespace(values), {"dtype": values.dtype, "device": device(values)}
        low, high, instead = (xp.asarray(number, **form) for number in (self.q01, self.q99, of_zero))
        span = high - low
        return low, xp.where(span == 0, instead, span)

    def normalise(self, values: Values) -> Values:
        """Map values ``[..., D]`` in raw units to normalised units."""
        low, span = self._like(values, np.inf)
        return 2.0 * (values - low) / span - 1.0

    def unnormalise(self, values: Values) -> Values:
        """Map normalised values ``[..., D]`` back to raw units."""
        low, span = self._like(values, self.eps)
        return (values + 1.0) * span / 2.0 + low

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; :meth:`from_json` restores the same numbers."""
        return {"q01": self.q01.tolist(), "q99": self.q99.tolist(), "eps": self.eps}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Quantiles":
        """The quantiles that :meth:`to_json` wrote."""
        return cls(np.asarray(value["q01"]), np.asarray(value["q99"]), float(value["eps"]))


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
