"""Sigma as a closed-loop controller: one decision every few control steps, memory kept between.

The memory holds the frozen base's pooled features by control step, so that a decision reads exactly what training read:
the features of one, two, … strides (``history_stride`` control steps) ago, masked before the episode began.

Legend: B environments, T horizon, Tc the base's chunk size, A action dim, A' the policy's padded action dim, P pooled
vectors, d backbone width.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import read_calibration, read_reference
from sigma.policy.adapter.measures import Measures, distances
from sigma.policy.control.robot_observation import RobotObservation, live_observation
from sigma.policy.model.vla import SigmaTelepathyVLA
from sigma.shared.errors import SigmaError
from sigma.shared.spans import split


def check_action_steps(n_action_steps: int, config: Mapping[str, Any]) -> None:
    """Raise :class:`SigmaError` where ``n_action_steps`` does not divide the history's stride in this ``config.json``
    or exceeds the horizon: a decision reads the features of decisions that lie whole strides back.
    """
    stride, horizon = config["history_stride"], config["sizes"]["horizon"]
    if n_action_steps < 1 or stride % n_action_steps or n_action_steps > horizon:
        raise SigmaError(f"n_action_steps: found {n_action_steps}; legal: divisors of {stride} up to {horizon}")


@dataclass
class _Episode:
    """The memory of one running environment: its control step and the features of its earlier decisions."""

    step: int = 0
    features: dict[int, Tensor] = field(default_factory=dict)  # control step -> (P, d)


class SigmaController:
    """Acts in closed loop under an adapter with the calibration of ``models/adapter_calibration.json``.

    ``n_action_steps`` control steps are executed a decision; they must divide the history's stride. Without ``heads``
    the residual heads are left out: the action that they would correct is executed.
    """

    def __init__(
        self,
        vla: SigmaTelepathyVLA,
        *,
        adapter: SigmaTelepathyAdapter,
        calibration: Path,
        n_action_steps: int,
        heads: bool = True,
    ):
        check_action_steps(n_action_steps, vla.config)
        sizes, stride = vla.config["sizes"], vla.config["history_stride"]
        self.vla, self.builder, self.heads = vla, vla.builder, heads
        self.n_action_steps, self.horizon = n_action_steps, sizes["horizon"]
        self._reach = stride * (sizes["history"] - 1)  # control steps that a decision looks back
        self.adapter = copy.copy(adapter)  # the caller's may serve another model
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

        ``noise`` (B, Tc, A') is the base's initial noise instead of its deterministic action.
        """
        vla, sizes = self.vla, self.vla.config["sizes"]
        noise = None if noise is None else noise.to(self.builder.device)
        observation = live_observation(vla.builder, observations, *self._past(indices), sizes["trace"])
        frozen = vla.model.frozen_pass(observation)
        addresses = [("live", index, self.episodes[index].step) for index in indices]
        proposal = vla.propose(observation, addresses, noise=noise, frozen=frozen)
        base, telepathy = proposal.base, proposal.telepathy
        states = np.stack([view["state"] for view in observations])
        hold = vla.normalisation.action.normalise(states.astype(np.float32))
        features, texts = frozen.pooled.flatten(1).cpu().numpy(), observation.text.cpu().numpy()
        measures = Measures(
            telepathy_factors=None if telepathy is None else telepathy.factors,
            alignment=None if telepathy is None else telepathy.alignment,
            hold=torch.from_numpy(hold).to(base.device),
            **{
                name: torch.from_numpy(distance).to(base)
                for name, distance in distances(features, texts, self.reference).items()
            },
        )
        correction = proposal.corrections if self.heads else split(proposal.corrected - base, sizes["chunk"])
        plan = self.adapter.execute(base, correction, measures).plan
        for row, index in enumerate(indices):
            episode = self.episodes[index]
            episode.features[episode.step] = frozen.pooled[row]
            episode.features.pop(episode.step - self._reach, None)
            episode.step += self.n_action_steps
        return vla.to_robot(plan).cpu().numpy()

    def _past(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        past, present = self.vla.empty_past(len(indices))
        length, stride = past.shape[1], self.vla.config["history_stride"]
        for row, index in enumerate(indices):
            episode = self.episodes[index]
            for back in range(1, length + 1):
                features = episode.features.get(episode.step - back * stride)
                if features is not None:
                    past[row, length - back], present[row, length - back] = features, True
        return past, present
