"""The simulator as an environment of LeRobot: the same episodes, and LeRobot's own rollout gives what ours gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lerobot.envs import env_to_policy_features, make_env, make_env_pre_post_processors
from lerobot.envs.factory import make_env_config
from lerobot.envs.utils import NEW_ROLLOUT_OPTION
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.scripts.lerobot_eval import rollout

import sigma.simulation.lerobot_registration as registered
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.lerobot.configuration_sigma import PolicyError
from sigma.shared.errors import SigmaError
from sigma.simulation.env import SO101Env
from sigma.simulation.episode import EpisodeSpec
from sigma.simulation.lerobot_env import LeRobotSO101Env
from sigma.simulation.rollout import FixedRows, run_rollouts
from sigma.simulation.scene import CAMERAS, CONTROL_HZ, IMAGE_SIZE, JOINTS
from tests.lerobot_policies import WIDE, write_policy
from tests.worlds import ROOT, World, inside

TYPE = "sigma_so101"
STEPS = 4  # control steps a decision


def environments(count: int, **options):
    """LeRobot's vector of environments, through its factory."""
    return make_env(make_env_config(TYPE, **options), n_envs=count)[TYPE][0]


def controller(world: World, rows: int, **adapter: float) -> FixedRows:
    one = SigmaController(
        world.vla(),
        adapter=SigmaTelepathyAdapter(**world.values()["adapter"] | adapter),
        calibration=world.root / "models/adapter_calibration.json",
        n_action_steps=STEPS,
    )
    return FixedRows(one, rows)


def lerobot_rollout(folder, task: str, seeds: list[int], **options) -> dict:
    """What LeRobot's evaluation does with a policy folder, up to its own rollout."""
    from lerobot.configs import PreTrainedConfig

    environment = make_env_config(TYPE, task=task, **options)
    config = PreTrainedConfig.from_pretrained(folder)
    config.pretrained_path = folder
    policy = make_policy(config, env_cfg=environment)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    wrapped = make_env_pre_post_processors(environment, config)
    vector = make_env(environment, n_envs=len(seeds))[TYPE][0]
    try:
        return rollout(vector, policy, *wrapped, before, after, seeds=seeds)
    finally:
        vector.close()


def test_the_registered_defaults_are_the_simulators():
    config = registered.SigmaSO101EnvConfig()
    assert (config.fps, config.cameras, config.size) == (CONTROL_HZ, list(CAMERAS), IMAGE_SIZE)
    assert len(JOINTS) == registered.JOINTS
    features = env_to_policy_features(config)
    assert set(features) == {"action", "observation.state", "observation.images.up", "observation.images.wrist"}
    assert features["observation.images.up"].shape == (3, IMAGE_SIZE, IMAGE_SIZE)


@pytest.mark.render
def test_a_seed_gives_the_same_episode_as_everywhere_in_the_project():
    vector, own = environments(2, task="pick_place", size=32), SO101Env("pick_place", size=32)
    observation, _ = vector.reset(seed=[7, 8])
    assert len(set(vector.call("task_description"))) >= 1
    for row, seed in enumerate((7, 8)):
        expected, _ = own.reset(seed=seed)
        assert vector.call("task_description")[row] == expected["task"]
        np.testing.assert_array_equal(observation["agent_pos"][row], expected["state"])
        for camera, picture in expected["images"].items():
            np.testing.assert_array_equal(observation["pixels"][camera][row], picture)
    np.testing.assert_array_equal(vector.envs[1].render(), observation["pixels"]["up"][1])
    assert vector.call("task") == ("pick_place", "pick_place")
    assert vector.call("_max_episode_steps") == (own.max_steps, own.max_steps)
    vector.close()


@pytest.mark.render
def test_gymnasiums_contract_is_kept():
    from gymnasium.utils.env_checker import check_env

    check_env(LeRobotSO101Env("reach", ("up",), 32))


@pytest.mark.render
def test_an_episode_that_has_ended_stays_ended_and_keeps_its_success(monkeypatch):
    vector = environments(2, task="reach", size=32, episode_length=3)
    observation, _ = vector.reset(seed=[1, 2], options={NEW_ROLLOUT_OPTION: True})
    won = vector.envs[0].unwrapped.env
    monkeypatch.setattr(won.monitor, "update", lambda world: setattr(won.monitor, "success", True))
    for step in range(3):
        observation, reward, terminated, truncated, info = vector.step(observation["agent_pos"])
        assert terminated.tolist() == [True, False] and truncated.tolist() == [False, step == 2]
        assert reward.tolist() == [float(step == 0), 0.0]
        assert bool(info["final_info"]["is_success"][0])
        assert won.steps == 1, "an episode that has ended was simulated further"
    assert not bool(info["final_info"]["is_success"][1])
    observation, _ = vector.reset(seed=[1, 2], options={NEW_ROLLOUT_OPTION: True})
    assert won.steps == 0
    vector.close()


def test_what_the_simulator_does_not_have_is_refused_by_name(monkeypatch):
    with pytest.raises(PolicyError, match=r"task 'stack' does not exist"):  # one line under LeRobot's commands
        environments(1, task="stack")
    with pytest.raises(SigmaError, match=r"camera 'side'"):
        environments(1, cameras=["up", "side"])
    with pytest.raises(SigmaError, match=r"env\.fps: found 30; legal: 10"):
        environments(1, fps=30)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for name in ("lerobot_env", "env", "scene", "gl"):
        monkeypatch.delitem(sys.modules, f"sigma.simulation.{name}", raising=False)
    with pytest.raises(SigmaError, match=r"needs the package mujoco: install lerobot_policy_sigma\[simulation\]"):
        environments(1)


@pytest.mark.render
def test_lerobots_rollout_executes_the_same_actions_as_ours(trained, tmp_path):
    seeds, steps = [40, 41, 42], 10
    got = lerobot_rollout(write_policy(trained, tmp_path / "policy"), "reach", seeds, episode_length=steps)
    spec = EpisodeSpec("reach", n_action_steps=STEPS, max_steps=steps)
    expected = run_rollouts(controller(trained, len(seeds)), seeds, spec)
    for row, result in enumerate(expected):
        np.testing.assert_array_equal(got["action"][row].numpy(), result.actions)
    assert not np.array_equal(expected[0].actions, expected[1].actions)
    assert got["success"].any(dim=1).tolist() == [result.success for result in expected]


@pytest.fixture(scope="module")
def embedded_world(tmp_path_factory) -> World:
    """A short training on the shipped base, which does solve its own tasks."""
    from tests.datasets import write_dataset

    root = tmp_path_factory.mktemp("worlds") / "embedded"
    root.mkdir()
    (root / "base").symlink_to(ROOT / "sigma/embedded/base")
    write_dataset(root / "recorded", lengths=(28, 25, 30, 27, 29, 26, 31, 28))
    world = World(root)
    world.run("fetch", "audit", "window", "baseline", "finetune", "evaluate")
    return world


@pytest.mark.slow
@pytest.mark.render
def test_lerobot_eval_scores_the_same_successes_on_the_same_seeds(embedded_world, tmp_path):
    """The command itself, with its own processes, against our rollout; some episodes succeed and some fail."""
    first, count, steps = 2, 6, 12
    folder = write_policy(embedded_world, tmp_path / "policy", clamp=True, **WIDE)
    command = [
        *(str(Path(sys.executable).with_name("lerobot-eval")), f"--policy.path={folder}", f"--env.type={TYPE}"),
        *("--env.task=carry", f"--env.episode_length={steps}", f"--seed={first}"),
        *(f"--eval.n_episodes={count}", f"--eval.batch_size={count}", f"--output_dir={tmp_path / 'out'}"),
        "--policy.adapter.min_scale=0.5",  # scenes unlike those of the calibration would shut Sigma off
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with inside(tmp_path):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (played,) = json.loads((tmp_path / "out/eval_info.json").read_text())["per_task"]
    seeds = list(range(first, first + count))
    spec = EpisodeSpec("carry", n_action_steps=STEPS, max_steps=steps)
    own = controller(embedded_world, count, min_scale=0.5)
    expected = [result.success for result in run_rollouts(own, seeds, spec)]
    assert played["metrics"]["successes"] == expected
    assert 0 < sum(expected) < count, "all alike: the comparison says little; choose other seeds"
    assert len(list((tmp_path / "out/videos").rglob("*.mp4"))) == count
