"""Exchanged memories, in the real simulator, with a policy whose answer is its memory."""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from sigma.shared.errors import SigmaError
from sigma.simulation import episode
from sigma.simulation.episode import EpisodeSpec
from sigma.simulation.expert import demonstrate
from sigma.studies.study.swap import swap

STEPS = 8
PLAYED: dict = {}  # the episodes that are played, by seed


class Robot:
    def __init__(self, carried):
        self.carried = carried


class Remembering:
    """The scripted expert, but that it does what the episode that it remembers asks for."""

    def __init__(self):
        self.episodes, self.scripts = {}, {}

    def reset(self, indices):
        self.episodes = {index: Robot(index) for index in indices}

    def act(self, observations, indices):
        plans = []
        for index in indices:
            remembered = self.episodes[index].carried
            if index not in self.scripts or self.scripts[index][0] != remembered:
                self.scripts[index] = remembered, self.script(index, remembered)
            plans.append([next(self.scripts[index][1]) for _ in range(STEPS)])
        return np.array(plans)

    def script(self, index, remembered):
        world, env = PLAYED[index].env.world, PLAYED[remembered].env
        action = None
        for action, _ in demonstrate(world, env.task.waypoints(env.scenario), env.scenario.pace):
            yield action
        while True:
            yield action


@pytest.fixture(autouse=True)
def _watched(monkeypatch):
    class Watched(episode.Episode):
        def __init__(self, seed, spec):
            super().__init__(seed, spec)
            PLAYED[seed] = self

    monkeypatch.setattr(episode, "Episode", Watched)
    yield
    PLAYED.clear()


def test_a_policy_that_acts_by_its_memory_gives_the_others_answer():
    spec = EpisodeSpec("shown_box", STEPS, size=32)
    pairs = swap.find_pairs(range(2000, 2010), spec)[:2]
    policy = Remembering()
    assert swap.exchange(policy, pairs, spec) == ["other"] * 4
    partner = {seed: other for pair in pairs for seed, other in (pair, pair[::-1])}
    assert {index: robot.carried for index, robot in policy.episodes.items()} == partner


def test_a_policy_that_never_moves_gives_no_answer():
    class Still(Remembering):
        def act(self, observations, indices):
            return np.stack([np.repeat(view["state"][None], STEPS, axis=0) for view in observations])

    spec = EpisodeSpec("put_back", STEPS, size=32, max_steps=24)
    pairs = swap.find_pairs(range(2000, 2006), spec)[:1]
    assert swap.exchange(Still(), pairs, spec) == ["neither"] * 2


@pytest.mark.parametrize("task", ["shown_box", "put_back"])
def test_the_two_answers_of_a_pair_differ(task):
    spec = EpisodeSpec(task, STEPS)
    env, pairs = spec.environment(), swap.find_pairs(range(2000, 2040), spec)
    assert len({seed for pair in pairs for seed in pair}) == 2 * len(pairs) >= 20
    for pair in pairs:
        scenarios = []
        for seed in pair:
            env.begin(seed)
            scenarios.append(env.scenario)
        if task == "shown_box":
            assert scenarios[0].box != scenarios[1].box
            # The box that was shown lies on another side too, so that memory of either names the same box.
            sides = [np.sign(scenario.layout.boxes[scenario.box][1]) for scenario in scenarios]
            assert sides[0] == -sides[1]
        else:
            starts = [np.array(scenario.layout.cube[:2]) for scenario in scenarios]
            assert np.linalg.norm(starts[0] - starts[1]) >= swap.APART


def test_a_task_without_such_a_moment_is_refused():
    with pytest.raises(SigmaError, match="swap: pick_place has no moment at which memory alone knows the answer"):
        swap.find_pairs(range(2000, 2004), EpisodeSpec("pick_place", STEPS))
