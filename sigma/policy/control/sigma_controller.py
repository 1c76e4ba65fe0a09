"""Sigma as a closed-loop controller: one decision every few control steps, memory carried between.

Legend: B environments, T horizon, Tc the base's chunk size, A action dim, A' the policy's padded action dim.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import read_calibration
from sigma.policy.control.gate import Gate
from sigma.policy.control.robot_observation import RobotObservation, live_observation
from sigma.policy.model.telepathy import Memory
from sigma.policy.model.vla import SigmaTelepathyVLA
from sigma.policy.pi05.observation import Observation
from sigma.shared.errors import SigmaError


def check_action_steps(n_action_steps: int, config: Mapping[str, Any]) -> None:
    """Raise :class:`SigmaError` where ``n_action_steps`` does not divide the memory's stride in this ``config.json``
    or exceeds the horizon: memory reads the frames of decisions, every stride from the first on.
    """
    stride, horizon = config["memory_stride"], config["sizes"]["horizon"]
    if n_action_steps < 1 or stride % n_action_steps or n_action_steps > horizon:
        raise SigmaError(f"n_action_steps: found {n_action_steps}; legal: divisors of {stride} up to {horizon}")


@dataclass
class _Episode:
    """A running environment: its control step, and what is carried between decisions; None before the first."""

    step: int = 0
    next_read: int = 0  # the control step from which on memory reads again
    carried: Memory | None = None


class SigmaController:
    """Acts in closed loop under an adapter with the calibration of ``models/adapter_calibration.json``.

    An adapter whose bounds leave no choice needs no calibration; any other gets a :class:`Gate`. ``n_action_steps``
    control steps are executed a decision; they must divide the memory's stride. With ``memory`` False memory is cleared
    before every decision.
    """

    def __init__(
        self,
        vla: SigmaTelepathyVLA,
        *,
        adapter: SigmaTelepathyAdapter,
        calibration: Path | None,
        n_action_steps: int,
        memory: bool = True,
    ):
        check_action_steps(n_action_steps, vla.config)
        self.vla, self.builder, self.memory = vla, vla.builder, memory
        self.n_action_steps, self.horizon = n_action_steps, vla.config["sizes"]["horizon"]
        self.adapter = copy.copy(adapter)  # the caller's may serve another model
        self.gate: Gate | None = None
        if adapter.fixed_scale is None:
            if calibration is not None and adapter.calibration is None:
                self.adapter.calibration = read_calibration(calibration)
            self.gate = Gate(self.adapter, vla.builder, vla.model.adapted, n_action_steps)
        self.episodes: dict[int, _Episode] = {}

    def reset(self, indices: list[int]) -> None:
        """Forget everything about these environments: their next decision is an episode's first."""
        self.episodes |= {index: _Episode() for index in indices}
        if self.gate is not None:
            self.gate.reset(indices)

    def news(self) -> list[str]:
        """When and why Sigma was held back by more than half, once an episode; each line is given once."""
        return self.gate.news() if self.gate is not None else []

    @torch.no_grad()
    def act(
        self, observations: Sequence[RobotObservation | dict[str, Any]], indices: list[int], noise: Tensor | None = None
    ) -> np.ndarray:
        """Plans (B, T, A) in the robot's units for B environments ``indices``, which give one observation each.

        ``noise`` (B, Tc, A') is the initial noise instead of the deterministic action's.
        """
        vla, gate, scale = self.vla, self.gate, self.adapter.fixed_scale
        views = observations if gate is None else gate.spelled(observations)
        observation = live_observation(vla.builder, views, vla.config["sizes"]["trace"])
        carried = self._carried(observation, indices)
        addresses = [("live", index, self.episodes[index].step) for index in indices]
        noise = None if noise is None else noise.to(self.builder.device)
        decisions = vla.decisions(observation, carried, addresses, noise)
        if gate is not None:
            plan = gate.act(
                observation, views, indices, base=decisions.base, action=decisions.action, telepathy=decisions.telepathy
            )
        elif scale in (0.0, 1.0):
            plan = decisions.action() if scale else decisions.base()
        else:
            plan = self.adapter.execute(decisions.base(), decisions.action(), {}).plan
        self._remember(observation, carried, indices)
        return vla.to_robot(plan).cpu().numpy()

    @torch.no_grad()
    def _carried(self, observation: Observation, indices: list[int]) -> Memory:
        begin = self.vla.model.heads.path.start(observation.text)
        rows = []
        for row, index in enumerate(indices):
            carried = self.episodes[index].carried
            rows.append(begin.rows(torch.tensor([row])) if carried is None or not self.memory else carried)
        return Memory(*(torch.cat(parts) for parts in zip(*(vars(row).values() for row in rows), strict=True)))

    @torch.no_grad()
    def _remember(self, observation: Observation, carried: Memory, indices: list[int]) -> None:
        """Let memory read these decisions, every stride of control steps, and advance the episodes."""
        read, stride = self.vla.model.heads.path.read(carried, observation), self.vla.config["memory_stride"]
        for row, index in enumerate(indices):
            episode = self.episodes[index]
            if episode.step >= episode.next_read:
                episode.carried = read.rows(torch.tensor([row], device=read.memory.device))
                episode.next_read = episode.step - episode.step % stride + stride
            episode.step += self.n_action_steps
