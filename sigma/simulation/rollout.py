"""Closed-loop episodes of a policy: environments step together and share one policy call per replan."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sigma.errors import SigmaError
from sigma.policy.limits import NonFiniteActionError
from sigma.simulation.env import SO101Env
from sigma.simulation.expert import demonstrate
from sigma.simulation.scene import CAMERAS, IMAGE_SIZE, JOINTS

TIMEOUT, WRONG_BOX, NON_FINITE = "time limit", "wrong box", "non-finite action"


class RolloutPolicy(Protocol):
    """What :func:`run_rollouts` drives. ``indices`` name the episodes by their place in ``seeds``.

    An observation is ``{"images": {camera: uint8 [H, W, 3]}, "state": float32 [6], "task": str}``.
    """

    def reset(self, indices: list[int]) -> None:
        """These episodes begin: forget what is remembered under their indices."""

    def act(self, observations: list[dict[str, Any]], indices: list[int]) -> np.ndarray:
        """Action chunks [B, n, 6] in raw joint units, at least as long as the steps executed per replan."""


@dataclass(frozen=True)
class RolloutResult:
    """How one episode ended. ``failure`` is None, or why it failed."""

    seed: int
    instruction: str
    success: bool
    progress: float
    wrong_box: bool
    steps: int
    failure: str | None
    frames: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # camera -> uint8 [steps, H, W, 3]


class _Episode:
    """One running environment of a batch."""

    def __init__(self, index: int, seed: int, env: SO101Env, record: Sequence[str]):
        self.index, self.seed, self.env, self.record = index, seed, env, record
        self.frames: dict[str, list[np.ndarray]] = {camera: [] for camera in record}
        self.done, self.stopped = False, False
        env.begin(seed)

    def execute(self, actions: np.ndarray) -> None:
        """Carry out a chunk [n, 6] until it or the episode ends."""
        for action in actions:
            for camera, frames in self.frames.items():
                frames.append(self.env.world.render(camera, self.env.size))
            try:
                success, late = self.env.advance(action)
            except NonFiniteActionError:
                self.done = self.stopped = True
                return
            if success or late:
                self.done = True
                return

    def result(self) -> RolloutResult:
        monitor = self.env.monitor
        failure = None
        if not monitor.success:
            failure = NON_FINITE if self.stopped else WRONG_BOX if monitor.wrong_box else TIMEOUT
        return RolloutResult(
            seed=self.seed,
            instruction=self.env.scenario.instruction,
            success=monitor.success,
            progress=monitor.progress,
            wrong_box=monitor.wrong_box,
            steps=self.env.steps,
            failure=failure,
            frames={camera: np.stack(frames) for camera, frames in self.frames.items() if frames},
        )


def run_rollouts(
    policy: RolloutPolicy,
    task: str,
    seeds: Sequence[int],
    n_action_steps: int,
    max_steps: int | None = None,
    batch: int | None = None,
    cameras: Sequence[str] = tuple(CAMERAS),
    size: int = IMAGE_SIZE,
    record: Sequence[str] = (),
) -> list[RolloutResult]:
    """Run one episode a seed, ``batch`` at a time (all by default), and execute ``n_action_steps`` of every chunk.

    ``record`` names cameras whose view is kept at every step. Raises :class:`SigmaError` where the policy's chunks have
    another shape.
    """
    batch = batch or len(seeds)
    results = []
    for first in range(0, len(seeds), batch):
        group = list(enumerate(seeds))[first : first + batch]
        episodes = [_Episode(index, seed, SO101Env(task, cameras, size, max_steps), record) for index, seed in group]
        policy.reset([episode.index for episode in episodes])
        while running := [episode for episode in episodes if not episode.done]:
            indices = [episode.index for episode in running]
            chunks = np.asarray(policy.act([episode.env.observe() for episode in running], indices))
            if chunks.ndim != 3 or len(chunks) != len(running) or chunks.shape[1] < n_action_steps:
                raise SigmaError(
                    f"rollout: the policy returned actions of shape {chunks.shape}; "
                    f"legal: ({len(running)}, at least {n_action_steps}, {len(JOINTS)})"
                )
            for episode, chunk in zip(running, chunks, strict=True):
                episode.execute(chunk[:n_action_steps])
        results += [episode.result() for episode in episodes]
    return results


def run_expert(task: str, seeds: Sequence[int], record: Sequence[str] = ()) -> list[RolloutResult]:
    """The scripted expert, without noise, on the same episodes: the ceiling of :func:`run_rollouts`."""
    results = []
    for index, seed in enumerate(seeds):
        episode = _Episode(index, seed, SO101Env(task), record)
        for action, _ in demonstrate(episode.env.world, task, episode.env.scenario):
            episode.execute(action[None])
            if episode.done:
                break
        results.append(episode.result())
    return results
