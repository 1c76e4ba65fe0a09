"""Past frames in closed loop: what :mod:`sigma.studies.study.train.past_frames` trains, on a robot.

Legend: B robots.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sigma.policy.control.controller import BaseController
from sigma.policy.pi05.observation import Observation
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.arm_folder import FRAMES


class PastFramesController(BaseController):
    """A policy that reads the image tokens of earlier frames too; behind a gate the frozen base reads none.

    ``stride`` is the control steps between them, as in training; ``n_action_steps`` must divide it.
    """

    def __init__(self, *arguments: Any, stride: int, **settings: Any):
        super().__init__(*arguments, **settings)
        if stride % self.n_action_steps:
            raise SigmaError(f"n_action_steps: found {self.n_action_steps}; legal: divisors of {stride}")
        self.stride = stride
        self._seen: dict[int, deque[Tensor]] = {}

    def reset(self, indices: Sequence[int]) -> None:
        super().reset(indices)
        self._seen |= {index: deque(maxlen=FRAMES) for index in indices}

    def _adapted_view(self, observation: Observation, indices: Sequence[int]) -> Observation:
        rows = []
        for index, present in zip(indices, observation.vision, strict=True):
            seen = self._seen[index]
            first = seen[0] if seen else present
            rows.append(torch.cat([*[first] * (FRAMES - len(seen)), *seen]).flatten(0, 1))
            if self._steps[index] % self.stride == 0:
                seen.append(present)
        return replace(observation, earlier=torch.stack(rows))
