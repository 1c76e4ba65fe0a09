"""The risk-aware adapter: how much of Sigma's correction reaches the robot.

Shapes: B windows, n steps of a span (vector 1, chunk C, trajectory T), D action dim, K factors, E factor dim.

    risk  = Σ weight · x            x: how unusual, 1 = the 95 % quantile of the calibration windows
    scale = min_scale + (max_scale − min_scale) · sigmoid((threshold − risk) / risk_temperature)
    action = base + scale · correction          (the base itself, to the bit, where scale is 0)

The card's ``action = base_action + scale * telepathy_residual`` and its parameters are kept; the risk is our own
design. One function serves NumPy arrays and torch tensors, so that the report and the robot compute the same thing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from array_api_compat import array_namespace

from sigma.policy.adapter.calibration import read_calibration, read_reference
from sigma.policy.adapter.measures import Measures, motion_ratio, rms
from sigma.shared.spans import SPANS, executed_plan

__all__ = ["Execution", "Measures", "SigmaTelepathyAdapter", "read_calibration", "read_reference"]

# With every x at 1 the five terms of a known instruction add up to 2.5, three temperatures below the threshold: scale
# 0.97. An instruction twice the tolerance away adds 8: scale below 0.03.
DEFAULT_WEIGHTS = {"size": 0.5, "motion": 0.5, "misalignment": 0.5, "tau": 0.5, "feature": 0.5, "text": 4.0}
DEFAULT_THRESHOLD = 6.0
DEFAULT_TEXT_TOLERANCE = 0.02
# What counts as 1 where nothing was calibrated: a quarter of a joint's range, twice the base's own motion, no alignment
# at all, an rms feature distance of one deviation.
UNCALIBRATED = {"residual_q95": 0.5, "motion_ratio_q95": 2.0, "misalignment_q95": 1.0, "feature_distance_q95": 1.0}
_NO_MEASURES = Measures()


@dataclass(frozen=True)
class Execution:
    """What would be executed: ``actions[span] [B, n, D]``, ``plan [B, T, D]``, ``scales[span]`` and ``risks[span]``
    ``[B]``."""

    actions: dict[str, Any]
    plan: Any
    scales: dict[str, Any]
    risks: dict[str, Any]


class SigmaTelepathyAdapter:
    """Scales a correction of the base action by how ordinary it looks.

    ``min_scale`` and ``max_scale`` bound the scale (0 ≤ min ≤ max ≤ 1); ``risk_temperature`` (> 0) sets how gradually
    it falls around ``threshold``; ``weights`` (≥ 0) are those of the six terms of :data:`DEFAULT_WEIGHTS`; an
    instruction whose embedding lies ``text_tolerance`` (cosine distance) from every calibration instruction adds
    ``weights["text"]``. ``calibration`` is the dictionary of :func:`~sigma.policy.adapter.calibration.calibrate`;
    without it the raw measures count in the units of :data:`UNCALIBRATED`, and the factors' norm is compared with
    √(K·E). Raises :class:`ValueError` on values out of range.
    """

    def __init__(
        self,
        min_scale: float = 0.0,
        max_scale: float = 1.0,
        risk_temperature: float = 1.0,
        threshold: float = DEFAULT_THRESHOLD,
        weights: Mapping[str, float] | None = None,
        text_tolerance: float = DEFAULT_TEXT_TOLERANCE,
        calibration: Mapping[str, Any] | None = None,
    ):
        if not 0.0 <= min_scale <= max_scale <= 1.0:
            raise ValueError(f"0 <= min_scale <= max_scale <= 1 is needed, found {min_scale} and {max_scale}")
        if not risk_temperature > 0.0 or not text_tolerance > 0.0:
            raise ValueError(f"risk_temperature {risk_temperature}, text_tolerance {text_tolerance}: must be positive")
        given = dict(weights or {})
        if set(given) - set(DEFAULT_WEIGHTS) or not all(weight >= 0.0 for weight in given.values()):
            raise ValueError(f"weights {given}: legal: {', '.join(DEFAULT_WEIGHTS)}, each >= 0")
        self.min_scale, self.max_scale, self.risk_temperature = min_scale, max_scale, risk_temperature
        self.threshold, self.text_tolerance = threshold, text_tolerance
        self.weights = DEFAULT_WEIGHTS | given
        self.calibration = calibration

    @property
    def fixed_scale(self) -> float | None:
        """The scale where the bounds leave no choice, else None: then nothing has to be measured."""
        return self.min_scale if self.min_scale == self.max_scale else None

    def _unit(self, key: str, span: str | None = None) -> float:
        """The value of a measure that counts as 1."""
        if self.calibration is None:
            return UNCALIBRATED[key]
        quantile = self.calibration["branches"][span][key] if span else self.calibration[key]
        if quantile is None:
            raise ValueError(f"the calibration is that of a model without telepathy: it has no {key}")
        return quantile

    def _tau(self, factors: Any, xp: Any) -> Any:
        norm = xp.sqrt(xp.sum(factors * factors, axis=tuple(range(1, factors.ndim))))
        if self.calibration is None:
            return xp.abs(norm / prod(factors.shape[1:]) ** 0.5 - 1.0)
        return xp.abs(norm - self._unit("tau_l2_median")) / self._unit("tau_l2_deviation_q95")

    def risk(self, base_action: Any, residual: Any, measures: Measures = _NO_MEASURES, *, span: str = "vector") -> Any:
        """Risk of each window, ``[B]``; a measure that is None adds nothing.

        ``base_action`` and ``residual`` are ``[B, D]`` or ``[B, n, D]`` in normalised units. A residual that is not
        finite counts as zero, any other value that is not finite as infinite risk. Raises :class:`ValueError` on an
        unknown span, and where the two shapes differ.
        """
        if span not in SPANS:
            raise ValueError(f"span {span!r}: legal: {', '.join(SPANS)}")
        shapes = tuple(base_action.shape), tuple(residual.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"base action {shapes[0]} and residual {shapes[1]} differ in shape")
        xp = array_namespace(base_action, residual)
        wide, weights = _wide(base_action, xp), self.weights
        base, residual = xp.astype(base_action, wide), _finite_or_zero(xp.astype(residual, wide), xp)
        # In the order of the fields of `Measures`.
        factors, alignment, hold, features, text = (
            None if values is None else xp.astype(values, wide) for values in vars(measures).values()
        )
        risk = weights["size"] / self._unit("residual_q95", span) * rms(residual)
        risk = risk + weights["motion"] / self._unit("motion_ratio_q95", span) * motion_ratio(residual, base, hold)
        if alignment is not None:
            risk = risk + weights["misalignment"] / self._unit("misalignment_q95") * (1.0 - alignment)
        if factors is not None:
            risk = risk + weights["tau"] * self._tau(factors, xp)
        if features is not None:
            risk = risk + weights["feature"] / self._unit("feature_distance_q95") * features
        if text is not None:
            risk = risk + weights["text"] / self.text_tolerance * text
        sound = xp.isfinite(risk) & _finite_rows(base, xp)
        if hold is not None:
            sound = sound & _finite_rows(hold, xp)
        return xp.where(sound, risk, xp.full_like(risk, float("inf")))

    def scale(self, risk: Any) -> Any:
        """The share of the correction that is applied, ``[B]`` in [min_scale, max_scale]; infinite risk gives
        min_scale."""
        xp = array_namespace(risk)
        # 0.5·(1 + tanh(x/2)) is the sigmoid; it cannot overflow and reaches 0 exactly.
        share = 0.5 * (1.0 + xp.tanh(0.5 * (self.threshold - risk) / self.risk_temperature))
        return xp.clip(self.min_scale + (self.max_scale - self.min_scale) * share, self.min_scale, self.max_scale)

    def blend(self, base: Any, correction: Any, scale: Any) -> Any:
        """``base + scale · correction`` in the base's shape and type; rows of scale 0 are the base's own, to the
        bit."""
        xp = array_namespace(base, correction, scale)
        wide = _wide(base, xp)
        share = xp.reshape(xp.astype(scale, wide), (-1,) + (1,) * (base.ndim - 1))
        moved = xp.astype(base, wide) + share * _finite_or_zero(xp.astype(correction, wide), xp)
        return xp.where(share == 0.0, base, xp.astype(moved, base.dtype))

    def __call__(
        self,
        *,
        base_action_vector: Any,
        telepathy_residual: Any,
        telepathy_factors: Any = None,
        alignment: Any = None,
    ) -> Any:
        """The blended action of one span, as the source's card calls it."""
        risk = self.risk(base_action_vector, telepathy_residual, Measures(telepathy_factors, alignment))
        return self.blend(base_action_vector, telepathy_residual, self.scale(risk))

    def execute(
        self,
        base_action: Any,
        residuals: Mapping[str, Any],
        measures: Measures = _NO_MEASURES,
    ) -> Execution:
        """Blend all three spans and put the executed plan together.

        ``base_action [B, T, D]`` is the frozen base's, ``residuals`` maps each span to ``[B, n, D]``, as
        :func:`~sigma.shared.spans.residuals` gives them.
        """
        actions, scales, risks = {}, {}, {}
        for span in SPANS:
            correction = residuals[span]
            base = base_action[:, : correction.shape[1]]
            risks[span] = self.risk(base, correction, measures, span=span)
            scales[span] = self.scale(risks[span])
            actions[span] = self.blend(base, correction, scales[span])
        return Execution(actions, executed_plan(actions), scales, risks)


def _wide(array: Any, xp: Any) -> Any:
    """Risk and blend are computed in float32, or in float64 where the action is."""
    return xp.float64 if array.dtype == xp.float64 else xp.float32


def _finite_rows(array: Any, xp: Any) -> Any:
    return xp.all(xp.isfinite(array), axis=tuple(range(1, array.ndim)))


def _finite_or_zero(residual: Any, xp: Any) -> Any:
    """A residual with any value that is not finite is dropped whole: half a correction is no correction."""
    finite = xp.reshape(_finite_rows(residual, xp), (-1,) + (1,) * (residual.ndim - 1))
    return xp.where(finite, residual, xp.zeros_like(residual))
