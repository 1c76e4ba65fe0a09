"""One episode that a policy plays and a person corrects; the person is the scripted expert.

Own design. The person takes over

- when no milestone of the task was passed for ``patience`` seconds,
- when the cube lies where it must not lie (dropped, in the wrong box or at the wrong place) for half a second,
- with ``at_random``, at one drawn moment, whatever the policy does,

and is asked at the end of what a decision executes, as people need a moment too. The person goes on from the milestone
that was reached and hands back when a further one is, after two seconds at the earliest; whoever had to take over three
times goes on to the end.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sigma.shared.seeding import generator
from sigma.simulation.episode import Episode, EpisodeSpec
from sigma.simulation.expert import compose, demonstrate, remaining
from sigma.simulation.failures import DROPPED, WRONG_BOX, WRONG_PLACE, failure_kind
from sigma.simulation.scene import CONTROL_HZ
from sigma.simulation.task import HELD_STEPS

NO_PROGRESS, AT_RANDOM = "no progress", "at random"
_MISPLACED = (DROPPED, WRONG_BOX, WRONG_PLACE)
_SHORTEST = 2 * CONTROL_HZ  # control steps of a correction
_LONGEST = 3  # times the task's own limit that an episode may take
_TAKEOVERS = 3


@dataclass(frozen=True)
class Rule:
    """When the person takes over; see the module."""

    patience: float
    at_random: bool


@dataclass(frozen=True)
class Frame:
    """One control step: what was seen before it, the action asked for, and whether the person asked for it."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    intervention: bool


class CorrectedEpisode(Episode):
    """An episode whose ``frames`` are kept, and in which the person acts by a :class:`Rule`.

    ``resumed`` says that the person has acted since the last decision: the policy begins anew.
    """

    def __init__(self, seed: int, spec: EpisodeSpec, rule: Rule):
        super().__init__(seed, spec)
        self.rule, self.frames, self.resumed = rule, list[Frame](), False
        self.takeovers: Counter[str] = Counter()
        self.env.limit = self.env.scenario.arrival + _LONGEST * self.env.task.max_steps
        moments = CONTROL_HZ, self.env.task.max_steps // 2
        drawn = self.env.scenario.arrival + int(generator("takeover", self.env.task.scenes, seed).integers(*moments))
        self._moment = drawn if rule.at_random else None
        self._person, self._passed, self._since, self._misplaced = False, 0, self.env.scenario.arrival, 0

    def step(self, action: np.ndarray) -> None:
        seen = self.env.observe()
        super().step(action)
        if self.stopped:
            return
        self.frames.append(Frame(seen["images"], seen["state"], np.asarray(action, np.float32), self._person))
        monitor, world = self.env.monitor, self.env.world
        if monitor.passed > self._passed:
            self._passed, self._since = monitor.passed, self.env.steps
        misplaced = failure_kind(world, monitor) in _MISPLACED
        self._misplaced = self._misplaced + 1 if misplaced else 0

    def execute(self, plan: np.ndarray) -> None:
        """As for every episode; then the person acts, where there is a reason."""
        super().execute(plan)
        self.resumed = False
        if not self.done and (reason := self._reason()):
            self._correct(reason)

    def _reason(self) -> str | None:
        if self._misplaced >= HELD_STEPS:
            return failure_kind(self.env.world, self.env.monitor)
        if self.env.steps - self._since >= self.rule.patience * CONTROL_HZ:
            return NO_PROGRESS
        if self._moment is not None and self.env.steps >= self._moment:
            self._moment = None
            return AT_RANDOM
        return None

    def _correct(self, reason: str) -> None:
        first, before = self.env.steps, self.env.monitor.passed
        self.takeovers[reason] += 1
        to_the_end = self.takeovers.total() >= _TAKEOVERS
        self._person = self.resumed = True
        while not self.done and not self._may_hand_back(first, before, to_the_end):
            # A grasp that slips is tried again.
            for action in self._expert():
                self.step(action)
                if self.done or self._may_hand_back(first, before, to_the_end):
                    break
        self._person = False
        self._since, self._misplaced = self.env.steps, 0
        # The plans of before are of no use, and what the policy remembers begins here.
        self._plans.clear()
        self._states = self._states[-1:]

    def _expert(self) -> Iterator[np.ndarray]:
        world, pace = self.env.world, self.env.scenario.pace
        yield from compose(world, pace)
        for action, _ in demonstrate(world, remaining(world, self.env.monitor), pace):
            yield action

    def _may_hand_back(self, first: int, before: int, to_the_end: bool) -> bool:
        return not to_the_end and self.env.monitor.passed > before and self.env.steps - first >= _SHORTEST
