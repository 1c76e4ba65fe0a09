import os
import subprocess
import sys

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.simulation.kinematics import inverse
from sigma.simulation.model import CUBE_HALF, build_model
from sigma.simulation.scene import FEATURE_NAMES, Layout, World, joint_ranges, to_radians, to_units, unit_ranges
from sigma.simulation.tasks import BASE_TASKS, TARGET, TASKS

LAYOUT = TASKS[TARGET].scenario(1).layout


def test_joint_limits_are_the_ends_of_the_unit_ranges():
    for limit, unit in zip(joint_ranges(), unit_ranges(), strict=True):
        np.testing.assert_allclose(to_units(limit), unit, atol=1e-4)


def test_units_and_radians_round_trip():
    units = np.random.default_rng(0).uniform(*unit_ranges(), size=(100, 6)).astype(np.float32)
    np.testing.assert_allclose(to_units(to_radians(units)), units, atol=1e-4)


def test_features_are_named_like_the_real_robots():
    assert FEATURE_NAMES == (
        "shoulder_pan.pos",
        "shoulder_lift.pos",
        "elbow_flex.pos",
        "wrist_flex.pos",
        "wrist_roll.pos",
        "gripper.pos",
    )


def test_arm_reaches_the_commanded_joints():
    world = World()
    world.reset(LAYOUT)
    target = world.state() + np.float32([8, -6, 5, -5, 4, 10])
    for _ in range(15):
        world.step(target)
    np.testing.assert_allclose(world.state(), target, atol=1.0)


def test_gripper_goes_where_inverse_kinematics_points():
    world = World()
    position = np.array([0.22, 0.06, 0.05])
    joints = (*inverse(position), 0.3)
    world.reset(Layout((0.3, -0.1, 0.0), LAYOUT.boxes, joints))
    np.testing.assert_allclose(world.gripper_position, position, atol=0.002)


def test_cube_rests_on_the_table_and_boxes_are_where_the_layout_says():
    world = World()
    world.reset(LAYOUT)
    np.testing.assert_allclose(world.cube_position, [*LAYOUT.cube[:2], CUBE_HALF], atol=0.001)
    for name, place in LAYOUT.boxes.items():
        np.testing.assert_allclose(world.box_position(name)[:2], place)


def test_held_cube_stays_between_the_jaws():
    world = World()
    world.reset(TASKS["carry"].scenario(3).layout)
    hold = to_units(world.command)
    for _ in range(10):
        world.step(hold)
    assert world.jaw_contacts() == (True, True)
    assert world.cube_position[2] > 0.05


def test_worlds_of_one_process_do_not_share_state():
    first, second = World(), World()
    first.reset(LAYOUT)
    other = TASKS[TARGET].scenario(2).layout
    second.reset(other)
    assert first.box_position("red")[0] == LAYOUT.boxes["red"][0] != second.box_position("red")[0]


def test_simplified_meshes_keep_the_robots_masses():
    import mujoco
    import so101_nexus

    original = mujoco.MjModel.from_xml_path(str(so101_nexus.get_so101_mujoco_model_path()))
    ours = build_model()
    for body in range(1, original.nbody):
        name = original.body(body).name
        np.testing.assert_allclose(ours.body(name).mass, original.body(body).mass)
        np.testing.assert_allclose(ours.body(name).inertia, original.body(body).inertia, rtol=1e-9)


def _pixels(image: np.ndarray, channel: int) -> int:
    """Pixels whose one channel is more than twice the two others."""
    others = np.delete(image.astype(int), channel, axis=2).max(axis=2)
    return int((image[..., channel] > 2 * others + 20).sum())


@pytest.mark.render
@pytest.mark.parametrize("task", (*BASE_TASKS, TARGET))
def test_cube_and_both_boxes_are_in_the_top_view(task):
    world = World()
    for address in range(10):
        world.reset(TASKS[task].scenario(address).layout)
        view = world.render("up")
        assert view.shape == (96, 96, 3) and view.dtype == np.uint8
        assert _pixels(view, 0) > 30 and _pixels(view, 2) > 30
        assert _pixels(view, 1) > (0 if task == "carry" else 6)


@pytest.mark.render
def test_wrist_camera_sees_the_cube_below_the_gripper():
    world = World()
    cube = (0.24, 0.0, 0.0)
    world.reset(Layout(cube, LAYOUT.boxes, (*inverse(np.array([0.24, 0.0, 0.075])), 0.7)))
    assert _pixels(world.render("wrist"), 1) > 300


def test_missing_gl_library_is_named():
    script = "from sigma.simulation.scene import World; World().render('up')"
    environment = os.environ | {"MUJOCO_GL": "disable"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert "SigmaError" in done.stderr and "install libosmesa6" in done.stderr


@pytest.mark.render
def test_unknown_camera_is_refused_by_name():
    with pytest.raises(SigmaError, match=r"'front'.*up, wrist"):
        World().render("front")
