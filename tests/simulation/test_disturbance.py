"""Harder settings: each changes what it says, from when it says, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from sigma.shared.errors import SigmaError
from sigma.simulation.disturbance import PUSH_STEPS, Disturbance
from sigma.simulation.env import SO101Env
from sigma.simulation.setting import PLAIN, Setting
from sigma.simulation.tasks import TARGET, TASKS

STEPS = 40


def trace(setting: Setting, seed: int = 2, task: str = TARGET) -> dict[str, np.ndarray]:
    """States, commands and cube of an episode in which the arm swings a little above the table."""
    env = SO101Env(task, cameras=(), setting=setting)
    env.begin(seed)
    centre = env.world.state()
    rows: dict[str, list] = {"state": [], "command": [], "cube": []}
    for step in range(STEPS):
        env.advance(centre + np.array([5 * np.sin(step / 5), 0, 0, 0, 0, 0], np.float32))
        rows["state"].append(env.world.state())
        rows["command"].append(env.world.command.copy())
        rows["cube"].append(env.world.cube_position)
    return {name: np.array(values) for name, values in rows.items()} | {"text": env.scenario.instruction}


@pytest.fixture(scope="module")
def plain():
    return trace(PLAIN)


def test_action_noise_has_the_given_deviation_and_is_the_same_again(plain):
    first, again, other = (
        trace(Setting(action_noise=2.0)),
        trace(Setting(action_noise=2.0)),
        trace(Setting(action_noise=2.0), seed=3),
    )
    np.testing.assert_array_equal(first["command"], again["command"])
    assert first["text"] == plain["text"]
    env = SO101Env(TARGET, cameras=())
    noise = Disturbance(Setting(action_noise=2.0), TARGET, 2)
    drawn = np.array([noise.action(np.zeros(6, np.float32)) for _ in range(2000)])
    assert abs(drawn.std() - 2.0) < 0.05 and abs(drawn.mean()) < 0.05
    env.begin(2)
    assert not np.allclose(first["command"] - plain["command"], other["command"] - trace(PLAIN, seed=3)["command"])
    assert not np.array_equal(first["command"], plain["command"])


def test_a_push_moves_the_cube_from_its_step_on_and_not_the_arm(plain):
    pushed = trace(Setting(push=0.4))
    moved = np.linalg.norm(pushed["cube"] - plain["cube"], axis=1)
    first = int(np.flatnonzero(moved)[0])
    assert PUSH_STEPS[0] <= first < PUSH_STEPS[1]
    assert moved[-1] > 0.003
    np.testing.assert_array_equal(pushed["command"], plain["command"])
    assert np.abs(pushed["cube"][-1, 2] - plain["cube"][-1, 2]) < 0.01, "it slides, it does not fly"


def test_pushes_differ_between_seeds():
    steps = {Disturbance(Setting(push=1.0), TARGET, seed)._push_step for seed in range(30)}
    assert len(steps) > 10


@pytest.mark.render
def test_a_shifted_camera_changes_its_own_picture_alone():
    plain, shifted = SO101Env(TARGET), SO101Env(TARGET, setting=Setting(camera_metres=0.02, camera_degrees=1.0))
    a, b = plain.reset(seed=4)[0], shifted.reset(seed=4)[0]
    assert not np.array_equal(a["images"]["up"], b["images"]["up"])
    np.testing.assert_array_equal(a["images"]["wrist"], b["images"]["wrist"])
    np.testing.assert_array_equal(a["state"], b["state"])
    for env, first in ((plain, a), (shifted, b)):
        again = env.observe()["images"]["up"]
        np.testing.assert_array_equal(again, first["images"]["up"], "the shift is of one picture, it does not add up")
    for env in (plain, shifted):
        env.advance(a["state"] + 5)
    np.testing.assert_array_equal(plain.world.data.qpos, shifted.world.data.qpos)
    np.testing.assert_array_equal(plain.world.data.cam_xpos, shifted.world.data.cam_xpos)


def test_the_camera_moves_by_the_given_distance_and_angle():
    one = Disturbance(Setting(camera_metres=0.02, camera_degrees=2.0), TARGET, 4)
    assert np.linalg.norm(one._shift) == pytest.approx(0.02)
    assert np.degrees(np.arccos((np.trace(one._turn) - 1) / 2)) == pytest.approx(2.0)
    np.testing.assert_allclose(one._turn @ one._turn.T, np.eye(3), atol=1e-12)


def test_a_setting_draws_the_words_and_changes_nothing_else(plain):
    told = {"recorded": set(), "held_out": set(), "canonical": set()}
    for seed in range(40):
        scenarios = []
        for wording, spoken in told.items():
            env = SO101Env(TARGET, cameras=(), setting=Setting(wording=wording))
            env.begin(seed)
            spoken.add(env.scenario.instruction)
            scenarios.append(replace(env.scenario, instruction=""))
        assert scenarios[0] == scenarios[1] == scenarios[2]
    instructions = TASKS[TARGET].instructions
    assert len(told["recorded"]) > 12 and told["recorded"] <= {text for one in instructions for text in one.wordings}
    assert len(told["held_out"]) > 4 and told["held_out"] <= {text for one in instructions for text in one.held_out}
    assert told["canonical"] == {one.canonical for one in instructions}
    other = trace(Setting(wording="held_out"))
    for name in ("state", "command", "cube"):
        np.testing.assert_array_equal(other[name], plain[name])


def test_any_wording_can_be_asked_for():
    env = SO101Env("put_back_told", cameras=())
    env.begin(3)
    place = env.scenario.instruction.split()[-2:]
    text = f"raise the block hold it and put it down at {' '.join(place)}"
    assert env.reset(seed=3, options={"instruction": text})[0]["task"] == text
    with pytest.raises(SigmaError, match="put it down at 99 99"):
        env.begin(3, "raise the block hold it and put it down at 99 99")


@pytest.mark.parametrize(
    "values", [{"push": -0.1}, {"delay": 1.5}, {"wording": "new"}, {"camera_degrees": float("nan")}, {"wind": 1.0}]
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(ValidationError):
        Setting(**values)
