"""A policy plays and the scripted expert corrects it: when it takes over, from where it goes on, what is written."""

from pathlib import Path

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder
from sigma.shared.progress import progress
from sigma.simulation.env import SO101Env
from sigma.simulation.episode import EpisodeSpec
from sigma.simulation.expert import demonstrate, remaining
from sigma.simulation.kinematics import OPEN
from sigma.simulation.milestones import grasped, held_still
from sigma.simulation.scene import to_units
from sigma.studies.study.cells.parameters import PARAMS
from sigma.studies.study.correct import correct
from sigma.studies.study.correct.corrections import corrected, record_corrected
from sigma.studies.study.correct.episode import AT_RANDOM, NO_PROGRESS, Rule
from tests.studies.study.projects import write_study
from tests.worlds import inside

STEPS = 8
RULE = Rule(patience=1.6, at_random=False)


class Nonsense:
    """It trembles, opens and closes the gripper, and so drops what it holds."""

    def __init__(self):
        self.begun: list[list[int]] = []
        self.traces: list[int] = []

    def reset(self, indices):
        self.begun.append([index for index in indices if index >= 0])

    def act(self, observations, indices):
        self.traces.append(len(observations[0]["trace"]))
        draws = [np.random.default_rng([len(self.traces), abs(index)]) for index in indices]
        offsets = np.stack([draw.uniform(-1, 1, (STEPS, 6)) * (5, 5, 5, 5, 5, 40) for draw in draws])
        return (np.stack([view["state"] for view in observations])[:, None] + offsets).astype(np.float32)


class Idle(Nonsense):
    """It stays where it is."""

    def act(self, observations, indices):
        self.traces.append(len(observations[0]["trace"]))
        return np.stack([np.tile(view["state"], (STEPS, 1)) for view in observations]).astype(np.float32)


@pytest.mark.parametrize(("task", "episodes"), [("pick_place", 6), ("put_back", 4)])
def test_an_episode_of_a_policy_that_can_do_nothing_is_saved(task, episodes):
    seeds = range(500, 500 + 3 * episodes)
    played = list(corrected(Nonsense(), seeds, episodes, EpisodeSpec(task, STEPS, size=32), RULE, episodes))
    won = [episode for episode in played if episode.env.monitor.success]
    assert len(won) >= len(played) - 1  # a cube that was thrown out of reach is lost
    assert all(any(frame.intervention for frame in episode.frames) for episode in won)


def test_the_person_waits_as_long_as_the_rule_says_and_hands_back_to_a_policy_that_begins_anew():
    policy = Idle()
    (episode,) = corrected(policy, range(7, 8), 1, EpisodeSpec("pick_place", STEPS, size=32), RULE, 1)
    acted = np.array([frame.intervention for frame in episode.frames])
    shifts = np.flatnonzero(np.diff(acted.astype(int)))
    assert shifts[0] + 1 == 16  # 1.6 s without any progress at 10 Hz
    assert shifts[1] - shifts[0] >= 20 and shifts[2] - shifts[1] == 16
    assert policy.begun.count([7]) == 1 + episode.takeovers.total()  # at the beginning, and wherever it was handed back
    assert policy.traces[:3] == [1, 9, 1]
    assert set(episode.takeovers) == {NO_PROGRESS} and episode.env.monitor.success


def test_a_drawn_moment_is_one_takeover_and_another_seed_draws_another():
    rule = Rule(patience=6.0, at_random=True)
    seeds = range(20, 32)
    played = list(corrected(Idle(), seeds, 4, EpisodeSpec("pick_place", STEPS, size=32), rule, 4))[:4]
    first = [[frame.intervention for frame in episode.frames].index(True) for episode in played]
    assert all(episode.takeovers[AT_RANDOM] == 1 for episode in played)
    assert len(set(first)) > 1 and all(10 <= moment <= 55 + STEPS for moment in first)


def test_the_expert_goes_on_from_what_was_reached_and_not_from_its_clock():
    env = SO101Env("put_back", size=32)
    env.begin(3)
    world, monitor, scenario = env.world, env.monitor, env.scenario

    def parts():
        return list(dict.fromkeys(waypoint.part for waypoint in remaining(world, monitor)))

    assert parts() == ["grasp", "lift", "show", "deliver"]
    for action, _ in demonstrate(world, env.task.waypoints(scenario), scenario.pace):
        env.advance(action)
        if held_still in env.task.milestones[: monitor.passed]:
            break
    assert parts() == ["lift", "deliver"]  # the cube is in the jaws, and has been shown
    dropping = to_units(np.array([*world.command[:5], OPEN]))
    for _ in range(10):
        env.advance(dropping)
    assert not grasped(world, monitor) and parts() == ["grasp", "lift", "deliver"]
    for action, _ in demonstrate(world, remaining(world, monitor), scenario.pace):
        env.advance(action)
    for _ in range(5):
        env.advance(to_units(world.command))
    assert monitor.success


def test_the_same_seeds_are_the_same_bytes_with_lerobots_column(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    jobs = {EpisodeSpec("pick_place", STEPS): (Idle(), range(40, 46), 2)}
    for name in ("first", "second"):
        with progress("correct", 2) as meter:
            counts, takeovers = record_corrected(tmp_path / name / "set", jobs, RULE, 2, meter)
    assert digest_folder(tmp_path / "first/set") == digest_folder(tmp_path / "second/set")
    table = LeRobotDataset("sigma/set", root=tmp_path / "first/set").hf_dataset.with_format("numpy")
    acted = np.concatenate([np.atleast_1d(value) for value in table["intervention"]])
    assert acted.dtype == bool and acted.sum() == counts["corrections"] and len(acted) == counts["frames"]
    assert 0 < acted.sum() < len(acted) and takeovers.total() >= 2


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arm": "expert"}, "arm 'expert': nothing to correct; legal: base, or a Sigma"),
        ({"arm": "nobody"}, "arm 'nobody' does not exist; legal: expert, base, sigma"),
        ({"settings": ["storm"]}, "study.play.settings of pick_place: no 'storm'; legal: plain, action_noise"),
        ({"seed": 30}, "--seed: found 30, whose episodes are among those that arms are judged by"),
        ({"settings": ["late"]}, "settings: late: delay: found 9; legal: 0 to 8, as base plans 16 steps"),
        ({"task": "fold"}, "study.tasks: no 'fold'; legal: pick_place"),
    ],
)
def test_what_cannot_be_corrected_is_refused_before_anything_is_played(trained, changes, line):
    settings = {"action_noise": {"action_noise": 1.5}, "late": {"delay": 9}}
    write_study(trained, replaced={"first_seed": 40, "episodes": 3, "settings": settings})
    given = {"arm": "base", "task": "pick_place", "episodes": 4, "settings": ["plain"], "patience": 4.0}
    given |= {"at_random": False, "seed": 90, "params": PARAMS, "workspace": Path(), "output": Path("corrected")}
    with inside(trained.root), pytest.raises(SigmaError) as caught:
        correct.run(**{**given, **changes})
    assert line in str(caught.value)
