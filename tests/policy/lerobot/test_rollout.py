"""``lerobot-rollout`` with a trained Sigma on a mock arm: what it refuses before the arm moves, and what it sends."""

import numpy as np
import pytest

from sigma.policy.lerobot.configuration_sigma import PolicyError
from tests.datasets import JOINTS
from tests.lerobot_policies import write_policy
from tests.mockarm import MockArm, roll_out


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The trained Sigma as ``sigma export`` writes it by default; read only."""
    return write_policy(trained, tmp_path_factory.mktemp("policies") / "sigma", clamp=True)


def test_another_control_rate_is_refused_before_the_robot_is_connected(folder, tmp_path):
    with pytest.raises(PolicyError, match=r"--fps: found 30; legal: 10, the rate of the training data; add --fps=10"):
        roll_out(folder, tmp_path, fps=30.0)
    assert MockArm.made is None


def test_an_empty_task_is_refused_before_the_robot_is_connected(folder, tmp_path):
    with pytest.raises(PolicyError, match='--task: the policy acts by an instruction; give it in words: --task="…"'):
        roll_out(folder, tmp_path, task=" ")
    assert MockArm.made is None


@pytest.mark.parametrize(
    ("robot", "message"),
    [
        ({"views": ["up"]}, r"'observation\.images\.wrist' is missing among .*--rename_map"),
        ({"joints": JOINTS[::-1]}, r"the robot has its joints in the order gripper.* shoulder_pan"),
        ({"joints": JOINTS[:5]}, r"observation\.state: found shape \(1, 5\); legal: \[B, 6\], shoulder_pan"),
    ],
)
def test_a_robot_of_another_form_is_one_line_before_its_first_action(folder, tmp_path, robot, message):
    with pytest.raises(PolicyError, match=message):
        roll_out(folder, tmp_path, robot=robot)
    assert MockArm.made.sent == [] and not MockArm.made.connected


def test_targets_stay_in_the_range_and_below_the_speed_of_the_training_data(trained, folder, tmp_path):
    limits = trained.shards.meta["statistics"]["action"]
    commands = roll_out(folder, tmp_path, duration=1.0).commands()
    assert len(commands) > 4
    assert (commands >= np.array(limits["min"]) - 1e-4).all() and (commands <= np.array(limits["max"]) + 1e-4).all()
    steps = np.abs(np.diff(commands, axis=0, prepend=0))  # the arm began at 0
    assert (steps <= np.array(limits["step"]) + 1e-4).all()
    assert steps.max() > 0.9 * max(limits["step"]), "nothing was clamped"
    slower = roll_out(folder, tmp_path, "--max_step=0.5").commands()
    assert np.abs(np.diff(slower, axis=0, prepend=0)).max() <= 0.5 + 1e-4
