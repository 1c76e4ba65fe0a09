"""Plain LoRA on a frozen base behind the gate that Sigma has, so that what a gate gives can be told from what telepathy
gives.

Legend: B robots, Tc the base's chunk size, D joints.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control.controller import BaseController
from sigma.policy.control.gate import Gate
from sigma.policy.control.robot_observation import RobotObservation, live_observation
from sigma.policy.model import lora
from sigma.policy.pi05.base import Base


class GatedController(BaseController):
    """A base that ``tuned`` has put LoRA on; where the gate of ``adapter`` is closed, the base acts without it.

    ``settings`` are those of :class:`BaseController`. Observations need ``trace``, as Sigma's do.
    """

    def __init__(self, base: Base, tuned: PeftModel, adapter: SigmaTelepathyAdapter, **settings: Any):
        super().__init__(base, **settings)
        self.tuned, self.gate = tuned, Gate(adapter, self.builder, tuned, self.n_action_steps)

    def reset(self, indices: Sequence[int]) -> None:
        super().reset(indices)
        self.gate.reset(indices)

    @torch.no_grad()
    def act(self, observations: Sequence[RobotObservation | dict[str, Any]], indices: Sequence[int]) -> np.ndarray:
        views = self.gate.spelled(observations)
        observation = live_observation(self.builder, views, self.gate.motion_steps)

        def frozen() -> Tensor:
            with lora.disabled(self.tuned):
                return self._integrate(observation, indices)

        adapted = self._adapted_view(observation, indices)
        plans = self.gate.act(
            observation, views, indices, base=frozen, action=lambda: self._integrate(adapted, indices)
        )
        return self._executed(plans, indices)
