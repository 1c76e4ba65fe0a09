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
from sigma.simulation.scene import IMAGE_SIZE, World

Observations = dict[int, dict[str, Any]]


class Group:
    """Episodes of one process, by seed."""

    def __init__(self) -> None:
        self.episodes: dict[int, Episode] = {}

    def begin(self, seeds: Sequence[int], spec: EpisodeSpec) -> Observations:
        """Begin these episodes, forget all others, and say what each sees first."""
        self.episodes = {seed: Episode(seed, spec) for seed in seeds}
        return {seed: episode.observe() for seed, episode in self.episodes.items()}

    def advance(self, plans: Mapping[int, np.ndarray]) -> Observations:
        """Execute plans by seed; returns what is seen by the episodes that go on."""
        seen = {}
        for seed, plan in plans.items():
            episode = self.episodes[seed]
            episode.execute(plan)
            if not episode.done:
                seen[seed] = episode.observe()
        return seen

    def results(self) -> dict[int, RolloutResult]:
        return {seed: episode.result() for seed, episode in self.episodes.items()}

    def expert(self, seeds: Sequence[int], spec: EpisodeSpec) -> dict[int, RolloutResult]:
        return {seed: expert_episode(seed, spec) for seed in seeds}

    def replay(self, actions: Mapping[int, np.ndarray], spec: EpisodeSpec) -> dict[int, Mapping[str, np.ndarray]]:
        return {seed: replay(seed, spec, episode_actions) for seed, episode_actions in actions.items()}


_group = Group()


def _prepare() -> None:
    """Software rendering starts its own threads, which only get in the way of the other processes."""
    os.environ.setdefault("LP_NUM_THREADS", "0")


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_group, method)(*arguments)


class EpisodePool:
    """Spreads episodes over ``workers`` processes; with one it works in this process. Use it as a context."""

    def __init__(self, workers: int = 1):
        self.workers = workers
        self._pools: list[ProcessPoolExecutor] = []
        self._alone = Group()
        self._seeds: list[int] = []

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

    def _share(self, seeds: Sequence[int]) -> list[list[int]]:
        return [list(seeds[place :: len(self._pools)]) for place in range(len(self._pools))]

    def _gather(self, method: str, parts: Sequence[tuple]) -> dict[int, Any]:
        """Call ``method`` in every process, each with its own arguments, and join the answers by seed."""
        futures = [pool.submit(_call, method, *part) for pool, part in zip(self._pools, parts, strict=True)]
        joined: dict[int, Any] = {}
        try:
            for future in futures:
                joined |= future.result()
        except BrokenProcessPool:
            raise SigmaError("rollout: a process that simulates has died; there may be too little memory") from None
        return joined

    def begin(self, seeds: Sequence[int], spec: EpisodeSpec) -> Observations:
        """Begin these episodes and say what each sees first."""
        self._seeds = list(seeds)
        if not self._pools:
            return self._alone.begin(seeds, spec)
        return self._gather("begin", [(part, spec) for part in self._share(seeds)])

    def advance(self, plans: Mapping[int, np.ndarray]) -> Observations:
        """Execute plans ``[T, 6]`` by seed; returns what is seen by the episodes that go on."""
        if not self._pools:
            return self._alone.advance(plans)
        parts = [({seed: plans[seed] for seed in part if seed in plans},) for part in self._share(self._seeds)]
        return self._gather("advance", parts)

    def results(self) -> list[RolloutResult]:
        """How the episodes ended, in the order of their beginning."""
        results = self._gather("results", [()] * len(self._pools)) if self._pools else self._alone.results()
        return [results[seed] for seed in self._seeds]

    def expert(self, seeds: Sequence[int], spec: EpisodeSpec) -> list[RolloutResult]:
        """The scripted expert's episodes."""
        if self._pools:
            results = self._gather("expert", [(part, spec) for part in self._share(seeds)])
        else:
            results = self._alone.expert(seeds, spec)
        return [results[seed] for seed in seeds]

    def replay(self, actions: Mapping[int, np.ndarray], spec: EpisodeSpec) -> dict[int, Mapping[str, np.ndarray]]:
        """The views of episodes that were played with these actions, by seed."""
        if not self._pools:
            return self._alone.replay(actions, spec)
        parts = [({seed: actions[seed] for seed in part}, spec) for part in self._share(list(actions))]
        return self._gather("replay", parts)


def check_renderer(size: int = IMAGE_SIZE) -> None:
    """Raise :class:`SigmaError` where nothing can be rendered, before any long work."""
    world = World()
    world.render("up", size)
