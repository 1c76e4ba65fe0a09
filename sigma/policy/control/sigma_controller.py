"""Sigma and the frozen base as closed-loop controllers: one decision every few control steps, memory kept between.

The carried memory is a queue of the frozen base's pooled features, addressed by control step, so that a decision reads
exactly what training read: the decisions 1, 2, … ``history_stride`` steps ago, masked before the episode began.

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
    """Acts in closed loop; ``adapter`` None is the frozen base alone.

    Args:
        vla: the model.
        adapter: how much of Sigma's correction is applied; None for the base.
        calibration: ``models/adapter_calibration.json``, needed with an adapter.
        n_action_steps: control steps executed a decision; must divide the history's stride.
        heads: False leaves the residual heads out: the action that they would correct is executed.
    """

    def __init__(
        self,
        vla: SigmaTelepathyVLA,
        *,
        adapter: SigmaTelepathyAdapter | None = None,
        calibration: Path | None = None,
        n_action_steps: int,
        heads: bool = True,
    ):
        check_action_steps(n_action_steps, vla.config)
        stride, horizon = vla.config["history_stride"], vla.config["sizes"]["horizon"]
        self.vla, self.builder = vla, vla.builder
        self.n_action_steps, self.horizon, self.adapter, self.heads = n_action_steps, horizon, None, heads
        self._reach = stride * (vla.config["sizes"]["history"] - 1)  # control steps that a decision looks back
        if adapter is not None:
            if calibration is None:
                raise SigmaError("an adapter needs models/adapter_calibration.json")
            self.adapter = copy.copy(adapter)  # the caller's own may serve another model
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
        vla = self.vla
        noise = None if noise is None else noise.to(self.builder.device)
        steps = vla.config["sizes"]["trace"] if self.adapter is not None else 0
        observation = live_observation(vla.builder, observations, *self._past(indices), steps)
        frozen = vla.model.frozen_pass(observation)
        addresses = [("live", index, self.episodes[index].step) for index in indices]
        use_telepathy = self.adapter is not None
        proposal = vla.propose(observation, addresses, use_telepathy=use_telepathy, noise=noise, frozen=frozen)
        plan = proposal.base
        if self.adapter is not None:
            states = np.stack([view["state"] for view in observations])
            hold = vla.normalisation.action.normalise(states.astype(np.float32))
            features, texts = frozen.pooled.flatten(1).cpu().numpy(), observation.text.cpu().numpy()
            away = distances(features, texts, self.reference)
            telepathy = proposal.telepathy
            measures = Measures(
                telepathy_factors=None if telepathy is None else telepathy.factors,
                alignment=None if telepathy is None else telepathy.alignment,
                hold=torch.from_numpy(hold).to(plan.device),
                **{name: torch.from_numpy(distance).to(plan) for name, distance in away.items()},
            )
            correction = proposal.corrections
            if not self.heads:
                correction = split(proposal.corrected - plan, vla.config["sizes"]["chunk"])
            plan = self.adapter.execute(plan, correction, measures).plan
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
