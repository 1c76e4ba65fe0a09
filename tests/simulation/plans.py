"""Policies for tests of the closed loop: prepared actions, and what was seen and asked."""

import numpy as np

from sigma.simulation.env import SO101Env
from sigma.simulation.expert import demonstrate
from sigma.simulation.setting import PLAIN, Setting
from sigma.simulation.tasks import task_named


class Planned:
    """Plays a prepared row of actions for every episode, and remembers how it was called."""

    def __init__(self, plans: dict[int, np.ndarray], steps: int = 12, every: int = 8):
        self.plans, self.steps, self.every = plans, steps, every
        self.step: dict[int, int] = {}
        self.calls: list[list[int]] = []
        self.seen: list[list[dict]] = []

    def reset(self, indices):
        self.step |= dict.fromkeys(indices, 0)

    def act(self, observations, indices):
        self.calls.append(list(indices))
        self.seen.append(list(observations))
        plans = []
        for index in indices:
            plan = self.plans[index]
            rows = np.minimum(np.arange(self.steps) + self.step[index], len(plan) - 1)
            self.step[index] += self.every
            plans.append(plan[rows])
        return np.stack(plans)


def expert_plan(task: str, seed: int, instruction: str | None = None, setting: Setting = PLAIN) -> np.ndarray:
    """The expert's actions for a rollout seed, found in another environment."""
    env = SO101Env(task, cameras=(), setting=setting)
    env.begin(seed, instruction)
    actions = []
    for action, _ in demonstrate(env.world, task_named(task).waypoints(env.scenario), env.scenario.pace):
        env.advance(action)
        actions.append(action)
    return np.stack(actions)
