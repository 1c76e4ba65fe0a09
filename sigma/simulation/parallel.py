"""The processes that simulate: each keeps its share of a batch of episodes, steps them and renders what they see.

Physics and rendering of an episode depend on nothing but the episode, so the number of processes changes no result.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import numpy as np

from sigma.shared.errors import SigmaError
from sigma.simulation.episode import Episode, EpisodeSpec, RolloutResult, expert_episode, replay
from sigma.simulation.scene import World

Observations = dict[int, dict[str, Any]]


class EpisodePool:
    """Spreads episodes over ``workers`` processes; with one, or outside of a ``with`` block, it works in this process.

    Every answer is by seed.
    """

    def __init__(self, workers: int = 1):
        self.workers = workers
        self._pools: list[ProcessPoolExecutor] = []
        self._episodes: dict[int, Episode] = {}

    def __enter__(self) -> "EpisodePool":
        if self.workers > 1:
            # One pool of one process each: an episode must come back to the process that holds it.
            context = get_context("spawn")
            self._pools = [ProcessPoolExecutor(1, context, _prepare) for _ in range(self.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)
        self._pools = []

    def _gather(self, method: str, items: Sequence[int] | Mapping[int, Any], *spec: EpisodeSpec) -> dict[int, Any]:
        """Call a method in every process with the seeds that are its own, and join the answers."""
        futures = []
        for place, pool in enumerate(self._pools):
            seeds = [seed for seed in items if seed % len(self._pools) == place]
            share = {seed: items[seed] for seed in seeds} if isinstance(items, Mapping) else seeds
            futures.append(pool.submit(_call, method, share, *spec))
        try:
            return {seed: answer for future in futures for seed, answer in future.result().items()}
        except BrokenProcessPool:
            raise SigmaError("rollout: a process that simulates has died; there may be too little memory") from None

    def begin(self, seeds: Sequence[int], spec: EpisodeSpec) -> Observations:
        """Begin these episodes, forget all others, and return what each sees first."""
        if self._pools:
            return self._gather("begin", seeds, spec)
        self._episodes = {seed: Episode(seed, spec) for seed in seeds}
        return {seed: episode.observe() for seed, episode in self._episodes.items()}

    def advance(self, plans: Mapping[int, np.ndarray]) -> Observations:
        """Execute plans ``[T, 6]`` by seed; returns what is seen by the episodes that go on."""
        if self._pools:
            return self._gather("advance", plans)
        for seed, plan in plans.items():
            self._episodes[seed].execute(plan)
        return {seed: self._episodes[seed].observe() for seed in plans if not self._episodes[seed].done}

    def results(self, seeds: Sequence[int]) -> dict[int, RolloutResult]:
        """How these episodes ended."""
        if self._pools:
            return self._gather("results", seeds)
        return {seed: self._episodes[seed].result() for seed in seeds}

    def expert(self, seeds: Sequence[int], spec: EpisodeSpec) -> dict[int, RolloutResult]:
        """The scripted expert's episodes."""
        if self._pools:
            return self._gather("expert", seeds, spec)
        return {seed: expert_episode(seed, spec) for seed in seeds}

    def replay(self, actions: Mapping[int, np.ndarray], spec: EpisodeSpec) -> dict[int, dict[str, np.ndarray]]:
        """The views of episodes that were played with these actions."""
        if self._pools:
            return self._gather("replay", actions, spec)
        return {seed: replay(seed, spec, episode_actions) for seed, episode_actions in actions.items()}


_worker = EpisodePool()  # of a process that another one has started


def _prepare() -> None:
    # Software rendering starts its own threads, which only get in the way of the other processes.
    os.environ.setdefault("LP_NUM_THREADS", "0")


def _call(method: str, *arguments: Any) -> dict[int, Any]:
    return getattr(_worker, method)(*arguments)


def check_renderer() -> None:
    """Raise :class:`SigmaError` where nothing can be rendered, before any long work."""
    World().render("up")
