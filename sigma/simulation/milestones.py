"""What has to happen in an episode: the milestones of the tasks, each read from the world after a control step.

``monitor`` knows how the episode began. Distances and thresholds are our own design.
"""

import numpy as np

from sigma.simulation.model import BOX_HALF, CUBE_HALF
from sigma.simulation.scene import PAN_AXIS, World
from sigma.simulation.task import Monitor
from sigma.simulation.waypoints import SHOW_PLACE

_LIFTED = 0.045  # height of the cube's centre above the table
_REACHED = 0.022
_PUSHED = (0.04, 0.09)  # metres away from the robot
_STILL = 0.02  # metres a second
_HOLDING = 0.05  # the same of a cube in the jaws, which tremble
_AT_PLACE = 0.03  # metres from where the cube should be


def _within(distance: float, first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.linalg.norm(first - second) < distance)


def near(world: World, _: Monitor) -> bool:
    return _within(2 * _REACHED, world.gripper_position, world.cube_position)


def enclosed(world: World, _: Monitor) -> bool:
    return _within(_REACHED, world.gripper_position, world.cube_position)


def undisturbed(world: World, monitor: Monitor) -> bool:
    return enclosed(world, monitor) and _within(2 * _REACHED, world.cube_position, monitor.cube_start)


def grasped(world: World, _: Monitor) -> bool:
    return all(world.jaw_contacts())


def lifted(world: World, monitor: Monitor) -> bool:
    return grasped(world, monitor) and bool(world.cube_position[2] > _LIFTED)


def behind(world: World, _: Monitor) -> bool:
    """The jaws are low and on the robot's side of the cube."""
    gripper, cube = world.gripper_position, world.cube_position[:2]
    nearer = _within(float(np.linalg.norm(cube - PAN_AXIS)), gripper[:2], PAN_AXIS)
    return nearer and bool(gripper[2] < 0.04) and _within(0.06, gripper[:2], cube)


def moved(world: World, monitor: Monitor) -> bool:
    return monitor.advance(world) > _PUSHED[0] / 4


def pushed(world: World, monitor: Monitor) -> bool:
    """Further from the robot, still on the table, and not off to one side."""
    advance = monitor.advance(world)
    aside = np.linalg.norm(world.cube_position[:2] - monitor.cube_start[:2]) ** 2 - advance**2
    on_table = world.cube_position[2] < 2 * CUBE_HALF
    return bool(_PUSHED[0] < advance < _PUSHED[1] and aside < 0.02**2 and on_table)


def over_goal(world: World, monitor: Monitor) -> bool:
    return world.over_box(monitor.scenario.box)


def near_goal(world: World, monitor: Monitor) -> bool:
    return _within(2 * BOX_HALF, world.cube_position[:2], world.box_position(monitor.scenario.box)[:2])


def held_over_goal(world: World, monitor: Monitor) -> bool:
    return over_goal(world, monitor) and lifted(world, monitor)


def released_in_goal(world: World, monitor: Monitor) -> bool:
    return world.in_box(monitor.scenario.box) and not any(world.jaw_contacts())


def at_rest_in_goal(world: World, monitor: Monitor) -> bool:
    return released_in_goal(world, monitor) and world.cube_speed < _STILL


def shown(world: World, monitor: Monitor) -> bool:
    """Held in the air where the task wants the cube to be seen."""
    return grasped(world, monitor) and _within(_AT_PLACE, world.cube_position, SHOW_PLACE)


def held_still(world: World, monitor: Monitor) -> bool:
    return shown(world, monitor) and world.cube_speed < _HOLDING


def back(world: World, monitor: Monitor) -> bool:
    """Over the place where it lay."""
    return _within(_AT_PLACE, world.cube_position[:2], monitor.cube_start[:2])


def released_back(world: World, monitor: Monitor) -> bool:
    on_table = world.cube_position[2] < 2 * CUBE_HALF
    return back(world, monitor) and bool(on_table) and not any(world.jaw_contacts())


def at_rest_back(world: World, monitor: Monitor) -> bool:
    return released_back(world, monitor) and world.cube_speed < _STILL
