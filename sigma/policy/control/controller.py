"""A base as a robot's controller, from camera images and joint state to joint targets.

The base may be frozen, carry LoRA, or be fine-tuned. LoRA can stand behind the gate that Sigma has, so that what a gate
gives can be told from what telepathy gives.

Legend: B robots stepped together, Tc the base's chunk size, D joints.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control.gate import Gate
from sigma.policy.control.robot_observation import RobotObservation, live_observation
from sigma.policy.model import lora
from sigma.policy.pi05.base import Base
from sigma.policy.pi05.base_action import Kind, deterministic_action
from sigma.policy.pi05.description import ACTION, STATE
from sigma.policy.pi05.inputs import InputBuilder, Normalisation
from sigma.policy.pi05.observation import Observation, base_pass
from sigma.shared.errors import SigmaError


class BaseController:
    """Runs a base in closed loop, many robots in one batch.

    ``n_action_steps`` control steps of each plan are executed before the next decision. ``decoding`` is ``sample`` (one
    seeded draw), ``zero_noise``, or ``mean`` of ``samples`` seeded draws; the draws are addressed by robot and control
    step. ``normalisation`` is by default that of the base's own statistics.

    With ``tuned``, the LoRA on the base, and an ``adapter`` the base acts without LoRA where the adapter's gate is
    closed; observations then need ``trace``, as Sigma's do.
    """

    def __init__(
        self,
        base: Base,
        *,
        n_action_steps: int,
        decoding: Kind = "zero_noise",
        samples: int = 8,
        seed: int = 0,
        normalisation: Normalisation | None = None,
        tuned: PeftModel | None = None,
        adapter: SigmaTelepathyAdapter | None = None,
    ):
        if not 1 <= n_action_steps <= base.chunk_size:
            raise SigmaError(f"n_action_steps: found {n_action_steps}; legal: 1 to the chunk size {base.chunk_size}")
        if normalisation is None:
            if base.statistics is None:
                raise SigmaError(
                    "the base was published without statistics; its actions cannot be turned into joint targets"
                )
            normalisation = Normalisation(base.statistics[STATE], base.statistics[ACTION])
        self.n_action_steps, self.horizon = n_action_steps, base.chunk_size
        self.decoding, self.samples, self.seed = decoding, samples, seed
        self.builder = InputBuilder(base, normalisation)
        self._steps: defaultdict[int, int] = defaultdict(int)
        self.gate = None if tuned is None or adapter is None else Gate(adapter, self.builder, tuned, n_action_steps)

    def reset(self, indices: Sequence[int]) -> None:
        """Begin an episode for these robots."""
        self._steps |= dict.fromkeys(indices, 0)
        if self.gate is not None:
            self.gate.reset(indices)

    @torch.no_grad()
    def act(self, observations: Sequence[RobotObservation | dict[str, Any]], indices: Sequence[int]) -> np.ndarray:
        """Plans ``[B, Tc, D]`` of joint targets in raw units for the robots ``indices``, one observation each."""
        gate = self.gate
        views, steps = (observations, 0) if gate is None else (gate.spelled(observations), gate.motion_steps)
        observation = live_observation(self.builder, views, steps)
        adapted = self._adapted_view(observation, indices)
        if gate is None:
            return self._executed(self._integrate(adapted, indices), indices)

        def frozen() -> Tensor:
            with lora.disabled(gate.tuned):
                return self._integrate(observation, indices)

        plans = gate.act(observation, views, indices, base=frozen, action=lambda: self._integrate(adapted, indices))
        return self._executed(plans, indices)

    def _adapted_view(self, observation: Observation, indices: Sequence[int]) -> Observation:
        """What an adapted policy reads at this decision, where that is more than the frozen base does."""
        return observation

    def _integrate(self, observation: Observation, indices: Sequence[int]) -> Tensor:
        """Normalised plans (B, Tc, D) of the policy as it is now."""
        base = self.builder.base
        return deterministic_action(
            self.decoding,
            base.policy,
            base_pass(base.policy, observation).encoded,
            base.num_steps,
            samples=self.samples,
            seed=self.seed,
            addresses=[("live", index, self._steps[index]) for index in indices],
        )

    def _executed(self, plans: Tensor, indices: Sequence[int]) -> np.ndarray:
        """The plans in raw units; the robots' clocks go on."""
        for index in indices:
            self._steps[index] += self.n_action_steps
        return self.builder.normalisation.action.unnormalise(plans.float().cpu().numpy())
