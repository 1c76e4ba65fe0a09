"""One closed-loop episode: it takes plans, executes control steps and reads from the simulator how it ended.

Legend: T steps of a plan, n steps executed of it, d steps of delay, N control steps of the episode.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sigma.policy.adapter.limits import NonFiniteActionError
from sigma.simulation.env import SO101Env
from sigma.simulation.expert import demonstrate
from sigma.simulation.failures import failure_kind
from sigma.simulation.scene import CAMERAS, IMAGE_SIZE, to_units
from sigma.simulation.setting import PLAIN, Setting


@dataclass(frozen=True)
class EpisodeSpec:
    """What the episodes of one run have in common; ``max_steps`` None is the task's own limit."""

    task: str
    n_action_steps: int = 1
    setting: Setting = PLAIN
    max_steps: int | None = None
    cameras: Sequence[str] = tuple(CAMERAS)
    size: int = IMAGE_SIZE

    def environment(self) -> SO101Env:
        return SO101Env(self.task, self.cameras, self.size, self.max_steps, setting=self.setting)


@dataclass(frozen=True)
class RolloutResult:
    """How one episode ended.

    ``failure`` is None or a kind of :mod:`sigma.simulation.failures`, ``milestones`` the number passed, ``decisions``
    the number of plans made; ``actions`` float32 [N, 6] are those that the policy asked for at each control step.
    """

    seed: int
    instruction: str
    success: bool
    progress: float
    wrong_box: bool
    steps: int
    failure: str | None
    milestones: int
    decisions: int
    actions: np.ndarray = field(compare=False, repr=False)


class Episode:
    """One running episode.

    With a delay of d control steps the robot waits d steps for a plan that follows none. Any other, made from the
    observation of step t, takes over at step t + d, with its own step d; until then the robot follows the plan before.
    """

    def __init__(self, seed: int, spec: EpisodeSpec, env: SO101Env | None = None):
        self.seed, self.spec, self.env = seed, spec, env or spec.environment()
        self.done, self.stopped, self.decisions = False, False, 0
        self._plans: deque[tuple[int, np.ndarray]] = deque()  # the step at which each takes over, and the plan
        self._actions: list[np.ndarray] = []
        self.env.begin(seed)
        self._states = [self.env.world.state()]

    def observe(self) -> dict[str, Any]:
        """The environment's observation, and ``trace`` float32 [n, 6]: the states of all control steps up to now."""
        return self.env.observe() | {"trace": np.stack(self._states)}

    def execute(self, plan: np.ndarray) -> None:
        """Take a plan [T, 6], T ≥ n + d, made from the present observation, and act for n control steps."""
        present, delay = self.env.steps, self.spec.setting.delay
        self._plans.append((present + delay, plan[delay:] if self._plans else plan))
        self.decisions += 1
        for now in range(present, present + self.spec.n_action_steps):
            if self.done:
                return
            while len(self._plans) > 1 and self._plans[1][0] <= now:
                self._plans.popleft()
            begin, current = self._plans[0]
            stalled = self.spec.setting.stalled and now == present
            self.step(self.hold() if stalled or now < begin else current[now - begin])

    def hold(self) -> np.ndarray:
        """The action that stays where the last one led."""
        return to_units(self.env.world.command)

    def step(self, action: np.ndarray) -> None:
        """One control step; an action that is not finite ends the episode."""
        try:
            success, late = self.env.advance(action)
        except NonFiniteActionError:
            self.done = self.stopped = True
            return
        self._actions.append(np.asarray(action, np.float32))
        self._states.append(self.env.world.state())
        self.done = success or late

    def result(self) -> RolloutResult:
        monitor = self.env.monitor
        return RolloutResult(
            seed=self.seed,
            instruction=self.env.scenario.instruction,
            success=monitor.success,
            progress=monitor.progress,
            wrong_box=monitor.wrong_box,
            steps=self.env.steps,
            failure=failure_kind(self.env.world, monitor, stopped=self.stopped),
            milestones=monitor.passed,
            decisions=self.decisions,
            actions=np.stack(self._actions) if self._actions else np.empty((0, 6), np.float32),
        )


def expert_episode(seed: int, spec: EpisodeSpec) -> RolloutResult:
    """The scripted expert in the same episode; it decides at every step, and a delay makes its actions late."""
    episode = Episode(seed, spec)
    scenario, waiting = episode.env.scenario, deque[np.ndarray]()
    for action, _ in demonstrate(episode.env.world, episode.env.task.waypoints(scenario), scenario.pace):
        waiting.append(action)
        episode.decisions += 1
        episode.step(waiting.popleft() if len(waiting) > spec.setting.delay else episode.hold())
        if episode.done:
            return episode.result()
    for action in waiting:  # the actions that are still delayed when the expert has ended
        if not episode.done:
            episode.step(action)
    return episode.result()


def replay(seed: int, spec: EpisodeSpec, actions: np.ndarray) -> dict[str, np.ndarray]:
    """The views of an episode that was played with these actions: camera -> uint8 [N + 1, size, size, 3].

    The simulator is deterministic, so the actions of a played episode are all that has to be kept of it.
    """
    env = spec.environment()
    env.begin(seed)
    frames = [env.observe()["images"]]
    for action in actions:
        env.advance(action)
        frames.append(env.observe()["images"])
    return {camera: np.stack([views[camera] for views in frames]) for camera in spec.cameras}
