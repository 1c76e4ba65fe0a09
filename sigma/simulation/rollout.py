"""Closed-loop episodes of a policy: environments step together and share one policy call a decision.

Legend: B episodes that still run, T steps of a plan, n steps executed of it, d steps of delay.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from sigma.shared.errors import SigmaError
from sigma.simulation.episode import EpisodeSpec, RolloutResult
from sigma.simulation.parallel import EpisodePool
from sigma.simulation.scene import JOINTS


class RolloutPolicy(Protocol):
    """What :func:`run_rollouts` drives. ``indices`` name the episodes by their seeds.

    An observation is ``{"images": {camera: uint8 [H, W, 3]}, "state": float32 [6], "task": str, "trace": float32
    [n, 6]}``, the trace being the states of all control steps up to now.
    """

    def reset(self, indices: list[int]) -> None:
        """These episodes begin: forget what is remembered under their indices."""

    def act(self, observations: list[dict[str, Any]], indices: list[int]) -> np.ndarray:
        """Plans [B, T, 6] in raw joint units, T at least n + d."""


class FixedRows:
    """Calls a policy with the same number of rows every time, an episode always in the row it began in.

    Kernels differ between batch shapes in their last bits, and a closed loop amplifies them. So an episode does not
    depend on which others still run; free rows hold copies of another's observation. ``seconds`` is the time that the
    policy has taken so far.
    """

    def __init__(self, policy: RolloutPolicy, rows: int):
        self.policy, self.rows, self.seconds = policy, rows, 0.0
        self._row: dict[int, int] = {}

    def reset(self, indices: list[int]) -> None:
        """Begin a batch: the first index takes the first row. Raises :class:`ValueError` for more than there are."""
        if len(indices) > self.rows:
            raise ValueError(f"{len(indices)} episodes do not fit into {self.rows} rows")
        self._row = {index: row for row, index in enumerate(indices)}
        self.policy.reset(indices)

    def act(self, observations: list[dict[str, Any]], indices: list[int]) -> np.ndarray:
        views = [observations[0]] * self.rows
        names = [-1 - row for row in range(self.rows)]  # no seed is negative
        for view, index in zip(observations, indices, strict=True):
            views[self._row[index]], names[self._row[index]] = view, index
        self.policy.reset([name for name in names if name < 0])
        started = time.perf_counter()
        plans = np.asarray(self.policy.act(views, names))
        self.seconds += time.perf_counter() - started
        return plans[[self._row[index] for index in indices]]


def run_rollouts(
    policy: RolloutPolicy,
    seeds: Sequence[int],
    spec: EpisodeSpec,
    *,
    batch: int | None = None,
    crew: EpisodePool | None = None,
) -> list[RolloutResult]:
    """Play an episode for each seed, ``batch`` at a time (by default all), in ``crew`` (by default this process).

    Raises :class:`SigmaError` where the policy's plans have another shape, or are shorter than n + d.
    """
    crew, batch, needed = crew or EpisodePool(), batch or len(seeds), spec.n_action_steps + spec.setting.delay
    results = []
    for first in range(0, len(seeds), batch):
        group = list(seeds)[first : first + batch]
        observations = crew.begin(group, spec)
        policy.reset(group)
        while running := [seed for seed in group if seed in observations]:
            plans = np.asarray(policy.act([observations[seed] for seed in running], running))
            if (
                plans.ndim != 3
                or (len(plans), plans.shape[2]) != (len(running), len(JOINTS))
                or plans.shape[1] < needed
            ):
                raise SigmaError(
                    f"rollout: the policy returned plans of shape {plans.shape}; "
                    f"legal: ({len(running)}, at least {needed}, {len(JOINTS)})"
                )
            observations = crew.advance(dict(zip(running, plans, strict=True)))
        ended = crew.results(group)
        results += [ended[seed] for seed in group]
    return results


def run_expert(seeds: Sequence[int], spec: EpisodeSpec, *, crew: EpisodePool | None = None) -> list[RolloutResult]:
    """The scripted expert, without noise of its own, in the same episodes: the ceiling of :func:`run_rollouts`."""
    results = (crew or EpisodePool()).expert(seeds, spec)
    return [results[seed] for seed in seeds]
