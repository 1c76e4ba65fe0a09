"""The Gymnasium environment: registered, within its spaces, and clamped."""

import gymnasium
import numpy as np
import pytest

from sigma.policy.adapter.limits import NonFiniteActionError
from sigma.shared.errors import SigmaError
from sigma.simulation.env import ENVIRONMENT, MAX_STEP, SO101Env
from sigma.simulation.scene import World, to_units
from sigma.simulation.setting import Setting
from sigma.simulation.tasks import TARGET


@pytest.mark.render
def test_registered_environment_keeps_gymnasiums_contract():
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make(ENVIRONMENT, task="pick_place", render_mode="rgb_array")
    assert env.unwrapped.task.name == "pick_place"
    check_env(env.unwrapped)
    env.close()


def test_the_name_with_its_module_needs_no_import_before():
    env = gymnasium.make(f"sigma.simulation.env:{ENVIRONMENT}", task="reach", setting=Setting(push=0.3))
    assert (env.unwrapped.task.name, env.unwrapped.setting.push) == ("reach", 0.3)


@pytest.mark.render
def test_observations_lie_within_their_space_and_success_ends_the_episode():
    env = gymnasium.make(ENVIRONMENT, task="reach", size=32, max_steps=2)
    observation, _ = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert observation["images"]["up"].shape == (32, 32, 3)
    truncations = []
    for _ in range(2):
        observation, reward, terminated, truncated, info = env.step(observation["state"])
        truncations.append(truncated)
    assert (reward, terminated, truncations) == (0.0, False, [False, True])
    assert set(info) == {"success", "progress", "wrong_box"}


def test_executed_actions_are_clamped():
    env = SO101Env("reach", cameras=())
    env.begin(0)
    before = to_units(env.world.command)
    env.advance(before + 1000)
    np.testing.assert_allclose(to_units(env.world.command), np.minimum(before + MAX_STEP, 100), atol=1e-3)
    with pytest.raises(NonFiniteActionError):
        env.advance(np.full(6, np.inf))


@pytest.mark.render
def test_same_seed_gives_the_same_first_observation():
    first, second = SO101Env(), SO101Env()
    a, _ = first.reset(seed=9)
    second.reset(seed=8)
    b, _ = second.reset(seed=9)
    assert a["task"] == b["task"] and np.array_equal(a["state"], b["state"])
    assert all(np.array_equal(a["images"][camera], b["images"][camera]) for camera in ("up", "wrist"))


def test_physics_alone_needs_no_renderer(monkeypatch):
    def refuse(*_):
        raise AssertionError("rendered")

    monkeypatch.setattr(World, "render", refuse)
    env = SO101Env("reach")
    env.begin(0)
    env.advance(env.world.state())


def test_an_unknown_task_or_camera_is_refused_by_name():
    with pytest.raises(SigmaError, match=r"'stack'.*pick_place"):
        SO101Env("stack")
    with pytest.raises(SigmaError, match=r"camera 'side'.*up, wrist"):
        SO101Env(TARGET, cameras=("up", "side"))
