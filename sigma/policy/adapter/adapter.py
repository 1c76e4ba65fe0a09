"""The risk-aware adapter: how much of Sigma's correction reaches the robot.

Shapes: B windows, T steps of a plan, D action dim, K factors, E factor dim.

    p      = smallest p-value of the terms × their number           (Bonferroni: valid however they hang together)
    risk   = −ln p                                                   (0 where p is 1 or more)
    scale  = min_scale + (max_scale − min_scale) · sigmoid((−ln false_alarms − risk) / risk_temperature)
    action = base + scale · residual                                 (one of the two to the bit, where scale is 0 or 1)

The card's ``action = base_action + scale * telepathy_residual`` and its parameters are kept; the risk is our own
design. Terms are scores of :mod:`sigma.policy.adapter.novelty`, :mod:`~sigma.policy.adapter.words` and
:mod:`~sigma.policy.adapter.measures`. One function serves NumPy arrays and torch tensors, so that the report and the
robot compute the same thing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

from array_api_compat import array_namespace

from sigma.policy.adapter.calibration import Calibration
from sigma.policy.adapter.conformal import Ordinary
from sigma.policy.adapter.measures import finite_rows, residual_size, telepathy_measures

__all__ = ["Execution", "SigmaTelepathyAdapter"]

# In the order in which they become known. What needs no integration decides first; a plan is compared with the plan
# before it once Sigma's is integrated, and a residual has a size where both are.
BEFORE = ("meaning", "wording", "picture", "change", "state", "motion", "tracking", "tau", "alignment")
AGREEMENT, SIZE = "agreement", "size"
TERMS = (*BEFORE, AGREEMENT, SIZE)
# Without a calibration, the value whose p is 5 %: no alignment at all, factors a quarter off their norm, a correction
# of a quarter of a joint's range.
UNCALIBRATED = {"tau": 0.25, "alignment": 1.0, SIZE: 0.5}
# A share this near to one end is that end, so that only one of the two policies is integrated.
NEAR = 0.01


@dataclass(frozen=True)
class Execution:
    """What would be executed: ``plan [B, T, D]``, its ``scale`` and ``risk`` ``[B]``, and ``surprises [B]`` by term,
    as :meth:`SigmaTelepathyAdapter.heard` gives them; none where the scale is fixed."""

    plan: Any
    scale: Any
    risk: Any
    surprises: Mapping[str, Any]


class SigmaTelepathyAdapter:
    """Scales a correction of the base action by how ordinary the decision looks.

    ``min_scale`` and ``max_scale`` bound the scale (0 ≤ min ≤ max ≤ 1); ``false_alarms`` (between 0 and 1) is the share
    of ordinary decisions at which it may fall below the middle; ``risk_temperature`` (> 0) sets how gradually.
    ``calibration`` comes from :func:`~sigma.policy.adapter.calibration.read_calibration`; without it only the terms
    of :data:`UNCALIBRATED` are known. Raises :class:`ValueError` on values out of range.
    """

    def __init__(
        self,
        min_scale: float = 0.0,
        max_scale: float = 1.0,
        risk_temperature: float = 0.5,
        false_alarms: float = 0.001,
        calibration: Calibration | None = None,
    ):
        if not 0.0 <= min_scale <= max_scale <= 1.0:
            raise ValueError(f"0 <= min_scale <= max_scale <= 1 is needed, found {min_scale} and {max_scale}")
        if not risk_temperature > 0.0 or not 0.0 < false_alarms < 1.0:
            raise ValueError(
                f"risk_temperature {risk_temperature}: legal: > 0; false_alarms {false_alarms}: legal: > 0 and < 1"
            )
        self.min_scale, self.max_scale, self.risk_temperature = min_scale, max_scale, risk_temperature
        self.false_alarms, self.calibration = false_alarms, calibration

    @property
    def fixed_scale(self) -> float | None:
        """The scale where the bounds leave no choice, else None: then nothing has to be measured."""
        return self.min_scale if self.min_scale == self.max_scale else None

    def held_back(self, scale: Any) -> Any:
        """Where a scale lies nearer to ``min_scale`` than to ``max_scale``, as bool; nowhere where they are one."""
        return scale < 0.5 * (self.min_scale + self.max_scale)

    @property
    def ordinary(self) -> Mapping[str, Ordinary]:
        """What each known term is compared with."""
        if self.calibration is not None:
            return self.calibration.ordinary
        return {term: Ordinary(unit / log(20.0)) for term, unit in UNCALIBRATED.items()}

    def surprises(self, measures: Mapping[str, Any]) -> dict[str, Any]:
        """−ln p of each term, ``[B]``, by itself. Raises :class:`ValueError` for a term that is not calibrated."""
        ordinary = self.ordinary
        for term in measures:
            if term not in ordinary:
                raise ValueError(f"{term!r}: not among the calibrated terms {', '.join(ordinary)}")
        return {term: ordinary[term].surprise(score) for term, score in measures.items()}

    def heard(self, measures: Mapping[str, Any], risk: Any) -> dict[str, Any]:
        """−ln p of each term, ``[B]``, 0 where it had no say in the ``risk`` that :meth:`decide` gave."""
        most = risk + log(len(self.ordinary)) + 1e-9
        xp = array_namespace(risk)
        return {
            term: xp.where(surprise <= most, surprise, xp.zeros_like(surprise))
            for term, surprise in self.surprises(measures).items()
        }

    def risk(self, measures: Mapping[str, Any]) -> Any:
        """−ln of the joint p-value of each window, ``[B]``; a term that is not given is no surprise."""
        joint = None
        for surprise in self.surprises(measures).values():
            xp = array_namespace(surprise)
            joint = surprise if joint is None else xp.maximum(joint, surprise)
        if joint is None:
            raise ValueError(f"no term is given; legal: {', '.join(self.ordinary)}")
        return xp.clip(joint - log(len(self.ordinary)), 0.0, float("inf"))

    def scale(self, risk: Any) -> Any:
        """The share of the correction that is applied, ``[B]`` in [min_scale, max_scale]; infinite risk gives
        min_scale."""
        xp = array_namespace(risk)
        # 0.5·(1 + tanh(x/2)) is the sigmoid; it cannot overflow.
        share = 0.5 * (1.0 + xp.tanh(0.5 * (-log(self.false_alarms) - risk) / self.risk_temperature))
        scale = self.min_scale + (self.max_scale - self.min_scale) * share
        scale = xp.where(share < NEAR, xp.full_like(risk, self.min_scale), scale)
        return xp.where(share > 1.0 - NEAR, xp.full_like(risk, self.max_scale), scale)

    def decide(self, measures: Mapping[str, Any]) -> tuple[Any, Any]:
        """Risk and scale ``[B]`` from whatever terms are known, in the order in which they become known on a robot.

        Where the terms before acting shut Sigma off, its plan is not integrated, so that nothing is heard of it; where
        they let it act alone, the base is not, so that the residual's size is not heard.
        """
        before = {term: score for term, score in measures.items() if term in BEFORE}
        later = [term for term in (AGREEMENT, SIZE) if term in measures]
        xp = array_namespace(*measures.values())
        risk = self.risk(before) if before else xp.zeros_like(measures[later[0]])
        for term in later:
            scale = self.scale(risk)
            heard = scale > self.min_scale if term == AGREEMENT else (scale > 0.0) & (scale < 1.0)
            risk = xp.where(heard, xp.maximum(risk, self.risk({term: measures[term]})), risk)
        return risk, self.scale(risk)

    def blend(self, base: Any, action: Any, scale: Any) -> Any:
        """``base + scale · (action − base)`` in the base's type ``[B, ...]``; the base itself to the bit at scale 0,
        the action at scale 1. An action with any value that is not finite counts as the base's."""
        xp = array_namespace(base, action, scale)
        wide = _wide(base, xp)
        share = xp.reshape(xp.astype(scale, wide), (-1,) + (1,) * (base.ndim - 1))
        sound = xp.reshape(finite_rows(action), share.shape)
        action = xp.where(sound, xp.astype(action, base.dtype), base)
        moved = xp.astype(base, wide) + share * (xp.astype(action, wide) - xp.astype(base, wide))
        blended = xp.where(share == 1.0, action, xp.astype(moved, base.dtype))
        return xp.where(share == 0.0, base, blended)

    def __call__(
        self, *, base_action_vector: Any, telepathy_residual: Any, telepathy_factors: Any = None, alignment: Any = None
    ) -> Any:
        """The blended action of one span, as the source's card calls it, by what these four say."""
        xp = array_namespace(base_action_vector)
        wide = _wide(base_action_vector, xp)
        base, residual = (xp.astype(array, wide) for array in (base_action_vector, telepathy_residual))
        measures = self.telepathy(telepathy_factors, alignment) | {SIZE: residual_size(residual)}
        scale = self.scale(self.risk({term: xp.astype(score, wide) for term, score in measures.items()}))
        return self.blend(base_action_vector, xp.astype(base + residual, base_action_vector.dtype), scale)

    def telepathy(self, factors: Any, alignment: Any) -> dict[str, Any]:
        """The terms ``tau`` and ``alignment`` of factors ``[B, K, E]`` and semantic alignments ``[B]``; what is None
        gives none. Without a calibration the norm of the factors is compared with √(K·E)."""
        centre = self.calibration.tau_centre if self.calibration else None
        return telepathy_measures(factors, alignment, centre)

    def execute(self, base: Any, action: Any, measures: Mapping[str, Any]) -> Execution:
        """What a robot would execute of the base's plan ``[B, T, D]`` and Sigma's; the size of their difference is
        added to ``measures`` where it is calibrated. A fixed scale needs no measures."""
        xp = array_namespace(base, action)
        if self.fixed_scale is not None:
            scale = xp.full_like(xp.astype(base[:, 0, 0], _wide(base, xp)), self.fixed_scale)
            return Execution(self.blend(base, action, scale), scale, xp.zeros_like(scale), {})
        if SIZE in self.ordinary:
            measures = {**measures, SIZE: residual_size(xp.astype(action - base, _wide(base, xp)))}
        risk, scale = self.decide(measures)
        return Execution(self.blend(base, action, scale), scale, risk, self.heard(measures, risk))


def _wide(array: Any, xp: Any) -> Any:
    """Risk and blend are computed in float32, or in float64 where the action is."""
    return xp.float64 if array.dtype == xp.float64 else xp.float32
