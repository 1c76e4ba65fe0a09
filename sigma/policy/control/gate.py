"""The gate at work: what it measures of each robot's decisions, what it remembers of them, and what it says.

It reads nothing of telepathy but its factors, so that any policy on a frozen base can stand behind it: Sigma, or plain
LoRA. What can be known before acting decides first, and only what is executed is integrated.

Legend: B robots, T steps of a plan, A action dim, D joints, S control steps of the motion.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigma.policy.adapter.adapter import AGREEMENT, SIZE, SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import Calibration
from sigma.policy.adapter.measures import disagreement, residual_size
from sigma.policy.adapter.novelty import Sight, parts, project
from sigma.policy.adapter.words import normalise_instruction
from sigma.policy.model import lora
from sigma.policy.model.telepathy import TelepathyState
from sigma.policy.pi05.inputs import InputBuilder
from sigma.policy.pi05.instruction import embed_instructions
from sigma.policy.pi05.observation import Observation, place_views
from sigma.shared.errors import SigmaError

MEANINGS = {
    "meaning": "the instruction is nearer to another task than to a trained one",
    "wording": "the instruction puts words together that no trained one does",
    "picture": "a camera's picture is unlike the recorded ones",
    "change": "a camera's picture stands still while the joints move",
    "state": "the joints fit neither each other nor the pictures",
    "motion": "the joints moved as they never did in the recordings",
    "tracking": "the joints are not where the last command led",
    "tau": "the telepathy factors have an unusual norm",
    "alignment": "the telepathy path disagrees with the instruction",
    AGREEMENT: "the plan contradicts the plan before it",
    SIZE: "the correction is larger than any that was seen",
}


@dataclass(frozen=True)
class Judgement:
    """What the gate decided at one decision: the scale, whether it holds Sigma back by more than half of what it may,
    the joint p-value, −ln p of each term, and the term that counts most."""

    step: int
    scale: float
    held_back: bool
    p: float
    surprises: dict[str, float]

    @property
    def term(self) -> str:
        return max(self.surprises, key=lambda name: self.surprises[name])

    def __str__(self) -> str:
        p = f"{self.p:.2g}" if self.p > 1e-6 else "below 1e-6"
        return f"step {self.step}: scale {self.scale:.2f}, for {MEANINGS[self.term]} ({self.term}, p {p})"


@dataclass
class _Robot:
    """One robot's episode: its judgements so far, and its last decision."""

    step: int = 0
    judgements: list[Judgement] = field(default_factory=list)
    axes: np.ndarray | None = None
    state: np.ndarray | None = None
    command: np.ndarray | None = None  # raw units
    passed: int = 0  # control steps since the last decision
    late: int = 0  # those of them in which nothing of the last plan was executed
    plan: np.ndarray | None = None  # the adapted policy's, normalised; None where it was not integrated


class Gate:
    """Decides how much of an adapted policy's plan is executed instead of the frozen base's.

    ``adapter`` must have a calibration; ``tuned`` is what carries LoRA, which is switched off where the frozen base is
    asked; ``n_action_steps`` control steps of a plan are executed before the next decision.
    """

    def __init__(self, adapter: SigmaTelepathyAdapter, builder: InputBuilder, tuned: nn.Module, n_action_steps: int):
        if adapter.calibration is None:
            raise SigmaError("an adapter that chooses its scale needs the calibration that evaluate wrote")
        self.adapter, self.calibration = adapter, adapter.calibration
        self.builder, self.tuned, self.n_action_steps = builder, tuned, n_action_steps
        self.robots: dict[int, _Robot] = {}
        self._words: dict[str, dict[str, float]] = {}
        self._untold: list[str] = []
        check_fit(self.calibration, builder)

    @property
    def motion_steps(self) -> int:
        """Control steps of the motion that are read."""
        return len(self.calibration.reference["motion_mean"])

    def reset(self, indices: Sequence[int]) -> None:
        """These robots begin an episode."""
        self.robots |= {index: _Robot() for index in indices}

    def follow(self, index: int, command: np.ndarray, passed: int | None = None, *, late: int = 0) -> None:
        """The last command of this robot was ``command [D]`` in raw units, and no step of the last plan's own.

        ``passed`` control steps have passed since the last decision, where these are not ``n_action_steps``; the last
        plan began ``late`` steps after it, with its own first step.
        """
        robot = self.robots[index]
        robot.command, robot.late = np.asarray(command, dtype=np.float64), late
        if passed is not None:
            robot.step, robot.passed = robot.step + passed - robot.passed, passed

    def news(self) -> list[str]:
        """What was not told yet: when and why an adapted policy was held back by more than half, once an episode."""
        told, self._untold = self._untold, []
        return told

    def spelled(self, views: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The views with instructions as they were trained, where case, punctuation or spaces alone differ."""
        return [{**view, "task": self.calibration.trained_text(view["task"])} for view in views]

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        views: Sequence[Mapping[str, Any]],
        indices: Sequence[int],
        *,
        base: Callable[[], Tensor],
        action: Callable[[], Tensor],
        telepathy: TelepathyState | None = None,
    ) -> Tensor:
        """The executed plan (B, T, A), normalised; ``base`` and ``action`` integrate the frozen base's and the adapted
        policy's, and are called where something of them is executed.

        The scale is decided up to three times, each time with what is known by then:

        1. before acting: what is seen, felt and told. At scale 0 everywhere the adapted plan is never made;
        2. with the adapted plan: whether it agrees with the one before. At scale 1 everywhere the base's is never made;
        3. with both: how large their difference is.
        """
        robots = [self.robots[index] for index in indices]
        measures, sight = self._before_acting(observation, views, robots, telepathy)
        risk, scale = self.adapter.decide(measures)
        plans: dict[str, Tensor] = {}
        if (scale > 0.0).any():
            plans["action"] = action()
            measures[AGREEMENT] = self._agreement(plans["action"], robots)
            risk, scale = self.adapter.decide(measures)
        # An action that is not finite counts as the base's.
        if (scale < 1.0).any() or not torch.isfinite(plans["action"]).all():
            plans["base"] = base()
        if len(plans) == 2:
            measures[SIZE] = _numpy(residual_size(plans["action"] - plans["base"]))
            risk, scale = self.adapter.decide(measures)
            plan = self.adapter.blend(plans["base"], plans["action"], torch.from_numpy(scale).to(plans["base"]))
        else:
            (plan,) = plans.values()
        self._remember(robots, indices, sight, plan, plans.get("action"), measures, risk, scale)
        return plan

    def _before_acting(
        self,
        observation: Observation,
        views: Sequence[Mapping[str, Any]],
        robots: list[_Robot],
        telepathy: TelepathyState | None,
    ) -> tuple[dict[str, np.ndarray], Sight]:
        """The terms that need no plan, and the decisions as the gate sees them."""
        features = _numpy(place_views(observation.vision))
        state = np.stack([np.asarray(view["state"], dtype=np.float64) for view in views])
        axes, distance = project(features, self.calibration.reference)
        now = Sight(axes, distance, state, _numpy(observation.motion)[:, -self.motion_steps :])
        known = np.array([robot.axes is not None for robot in robots])
        before = [(axes[row], state[row], state[row]) for row in range(len(robots))]
        for row, robot in enumerate(robots):
            if robot.axes is not None:
                before[row] = robot.axes, robot.state, robot.command
        last_axes, last_state, command = (np.stack(values) for values in zip(*before, strict=True))
        then = Sight(last_axes, distance, last_state, now.motion)
        found = self.calibration.scores(parts(now, then, command, known, self.calibration.reference))
        words = [self._measure_words(view["task"]) for view in views]
        found |= {term: np.array([word[term] for word in words]) for term in ("meaning", "wording")}
        if telepathy is not None:
            measured = self.adapter.telepathy(telepathy.factors, telepathy.alignment)
            found |= {term: _numpy(score) for term, score in measured.items()}
        return found, now

    def _measure_words(self, text: str) -> dict[str, float]:
        if text not in self._words:
            with lora.disabled(self.tuned):
                embedding = embed_instructions(self.builder, [normalise_instruction(text) or text])
            measured = self.calibration.instructions.measure([text], embedding)
            self._words[text] = {term: float(score[0]) for term, score in measured.items()}
        return self._words[text]

    def _agreement(self, action: Tensor, robots: list[_Robot]) -> np.ndarray:
        plans = _numpy(action)
        return np.array(
            [
                -np.inf
                if robot.plan is None
                else disagreement(plan[None], robot.plan[None], robot.passed - robot.late)[0]
                for plan, robot in zip(plans, robots, strict=True)
            ]
        )

    def _remember(
        self,
        robots: list[_Robot],
        indices: Sequence[int],
        sight: Sight,
        plan: Tensor,
        action: Tensor | None,
        measures: Mapping[str, np.ndarray],
        risk: np.ndarray,
        scale: np.ndarray,
    ) -> None:
        commands = self.builder.normalisation.action.unnormalise(_numpy(plan)[:, self.n_action_steps - 1])
        surprises = self.adapter.heard(measures, risk)
        for row, (robot, index) in enumerate(zip(robots, indices, strict=True)):
            by_term = {term: float(values[row]) for term, values in surprises.items()}
            held_back = bool(self.adapter.held_back(scale[row]))
            judged = Judgement(robot.step, float(scale[row]), held_back, math.exp(-risk[row]), by_term)
            if held_back and not any(earlier.held_back for earlier in robot.judgements):
                self._untold.append(f"robot {index}, {judged}")
            robot.judgements.append(judged)
            robot.step, robot.passed, robot.late = robot.step + self.n_action_steps, self.n_action_steps, 0
            robot.axes, robot.state, robot.command = sight.axes[row], sight.state[row], commands[row]
            robot.plan = None if action is None or scale[row] <= 0.0 else _numpy(action[row])


def check_fit(calibration: Calibration, builder: InputBuilder) -> None:
    """Raise :class:`SigmaError` where the calibration was made with other cameras or joints than the policy reads."""
    views, joints = len(calibration.reference["views_mean"]), len(calibration.reference["state_mean"])
    if (views, joints) != (len(builder.base.cameras), builder.base.state_dim):
        raise SigmaError(
            f"adapter calibration: made for {views} cameras and {joints} joints; the policy reads "
            f"{len(builder.base.cameras)} and {builder.base.state_dim}; run `dvc repro sigma`"
        )


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
