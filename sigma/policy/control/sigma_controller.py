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
from sigma.policy.adapter.calibration import read_calibration, read_reference
from sigma.policy.adapter.measures import Measures, distances
from sigma.policy.control.robot_observation import RobotObservation, live_observation
from sigma.policy.model.telepathy import Memory
from sigma.policy.model.vla import Proposal, SigmaTelepathyVLA
from sigma.policy.pi05.observation import Observation
from sigma.shared.errors import SigmaError
from sigma.shared.spans import residuals


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

    An adapter whose bounds leave no choice needs no calibration, and spares the pass that nothing is executed of.
    ``n_action_steps`` control steps are executed a decision; they must divide the memory's stride. With ``memory``
    False memory is cleared before every decision.
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
        self.reference: dict[str, np.ndarray] = {}
        if adapter.fixed_scale is None:
            if calibration is None:
                raise SigmaError("an adapter that chooses its scale needs the calibration that evaluate wrote")
            self.adapter.calibration = adapter.calibration or read_calibration(calibration)
            self.reference = read_reference(calibration)
        self.episodes: dict[int, _Episode] = {}

    def reset(self, indices: list[int]) -> None:
        """Forget everything about these environments: their next decision is an episode's first."""
        self.episodes |= {index: _Episode() for index in indices}

    def act(
        self,
        observations: Sequence[RobotObservation | dict[str, Any]],
        indices: list[int],
        noise: Tensor | None = None,
    ) -> np.ndarray:
        """Plans (B, T, A) in the robot's units for B environments ``indices``, which give one observation each.

        ``noise`` (B, Tc, A') is the initial noise instead of the deterministic action's.
        """
        vla, scale = self.vla, self.adapter.fixed_scale
        observation = live_observation(vla.builder, observations, vla.config["sizes"]["trace"])
        carried = self._carried(observation, indices)
        proposal = vla.propose(
            observation,
            carried,
            [("live", index, self.episodes[index].step) for index in indices],
            use_base=scale != 1.0,
            use_sigma=scale != 0.0,
            noise=None if noise is None else noise.to(self.builder.device),
        )
        self._remember(observation, carried, indices)
        states = np.stack([view["state"] for view in observations])
        return vla.to_robot(self._plan(observation, proposal, states)).cpu().numpy()

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

    def _plan(self, observation: Observation, proposal: Proposal, states: np.ndarray) -> Tensor:
        """The normalised plan (B, T, A) that is executed."""
        scale = self.adapter.fixed_scale
        if scale == 1.0 and proposal.action is not None:
            return proposal.action
        if scale == 0.0 and proposal.base is not None:
            return proposal.base
        base, action = proposal.both()
        if scale is not None:
            return self.adapter.blend(base, action - base, base.new_full((len(base),), scale))
        telepathy, pooled = proposal.telepathy, proposal.pooled
        assert telepathy is not None and pooled is not None  # both passes were made
        hold = self.vla.normalisation.action.normalise(states.astype(np.float32))
        features, texts = pooled.flatten(1).cpu().numpy(), observation.text.cpu().numpy()
        measures = Measures(
            telepathy_factors=telepathy.factors,
            alignment=telepathy.alignment,
            hold=torch.from_numpy(hold).to(base.device),
            **{
                name: torch.from_numpy(distance).to(base)
                for name, distance in distances(features, texts, self.reference).items()
            },
        )
        chunk = self.vla.config["sizes"]["chunk"]
        return self.adapter.execute(base, residuals(base, action, chunk), measures).plan
