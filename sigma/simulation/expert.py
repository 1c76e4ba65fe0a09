"""A scripted expert that knows the simulator's poses: a task's waypoints, joined by minimum-jerk motions.

The motion is that of Flash and Hogan (1985). A waypoint's goal is read from the world at every step, so that the expert
follows a cube that was nudged. Its plan does not depend on where noise has moved the arm: the action is the clean one,
and executing it leads back.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from sigma.simulation.kinematics import GRASP_ROLL, inverse
from sigma.simulation.milestones import grasped, held_still
from sigma.simulation.scene import CONTROL_HZ, PAN_AXIS, World, to_units
from sigma.simulation.task import Monitor
from sigma.simulation.waypoints import RETREAT, Start, Waypoint, pick

_SPEED = 0.16  # mean speed of free motions, metres a second
_REACH, _SIDE, _SAFE = (0.15, 0.27), 0.7, 0.09  # over the table: metres from the axis, radians to a side, metres up
_STRANGE, _TURN = 0.4, 1.2  # radians that a joint is off, radians a second in which that is mended
NOISE_MEMORY = 0.8  # the share of the action noise that survives a control step


def _minimum_jerk(share: float) -> float:
    """How far a motion has come after this share of its time."""
    return share**3 * (10 - 15 * share + 6 * share**2)


def demonstrate(world: World, waypoints: Sequence[Waypoint], pace: float) -> Iterator[tuple[np.ndarray, float]]:
    """Yield, once per control step, the expert's action [6] in normalised units and its share of the action noise.

    It begins where the arm is, and holds its pose until the cube is there. The caller steps the world between items.
    """
    command = world.command.copy()
    place, opening, roll = world.gripper_position, float(command[5]), float(command[4])
    while world.waiting:
        yield to_units(command), 0.0  # motors that hold a pose stand still
    for waypoint in waypoints:
        first_place, first_opening, first_roll = place, opening, roll
        start = Start(world.gripper_position, world.cube_position)
        distance = float(np.linalg.norm(waypoint.goal(world, start) - place))
        seconds = waypoint.seconds or max(0.6, distance / _SPEED)
        steps = max(2, round(seconds * pace * CONTROL_HZ))
        for step in range(1, steps + 1):
            blend = _minimum_jerk(step / steps)
            place = first_place + (waypoint.goal(world, start) - first_place) * blend
            opening = first_opening + (waypoint.opening - first_opening) * blend
            roll = first_roll + (GRASP_ROLL - first_roll) * blend
            command[:5] = inverse(place, roll, command[:4])
            command[5] = opening
            yield to_units(command), waypoint.slack


def compose(world: World, pace: float) -> Iterator[np.ndarray]:
    """Yield the actions [6] that bring an arm which another has left in a strange posture back over the table.

    There are none where it stands as the expert's would: the waypoints can be reached from there. The search for joint
    angles begins at the present ones, and from a strange posture it ends in another one.
    """
    offset = world.gripper_position[:2] - PAN_AXIS
    reach, angle = np.clip(np.linalg.norm(offset), *_REACH), np.clip(np.arctan2(*offset[::-1]), -_SIDE, _SIDE)
    point = PAN_AXIS + reach * np.array([np.cos(angle), np.sin(angle)])
    first, usual = world.command.copy(), world.command.copy()
    usual[:5] = inverse(np.array([*point, world.gripper_position[2]]), float(first[4]))
    if np.abs(usual - first)[:4].max() < _STRANGE:
        return
    usual[:5] = inverse(np.array([*point, max(world.gripper_position[2], _SAFE)]))
    steps = round(max(0.6, np.abs(usual - first).max() / _TURN) * pace * CONTROL_HZ)
    for step in range(1, steps + 1):
        yield to_units(first + (usual - first) * _minimum_jerk(step / steps))


def remaining(world: World, monitor: Monitor) -> list[Waypoint]:
    """What is left of the task for an expert who takes over now.

    A cube in the jaws goes on from there; any other is let go and grasped (anew). It is held up where the task wants
    that, unless it has been, and goes where it belongs.
    """
    waypoints = list(monitor.task.waypoints(monitor.scenario))
    was_shown = held_still in monitor.task.milestones[: monitor.passed]
    left = [waypoint for waypoint in waypoints if not (was_shown and waypoint.part == "show")]
    if grasped(world, monitor):
        return [waypoint for waypoint in left if waypoint.part != "grasp"]
    *before, at_rest = monitor.task.milestones
    if monitor.passed >= len(before) and at_rest(world, monitor):  # all is done: away from it, and wait
        return [RETREAT, RETREAT]
    again = pick() if monitor.task.starts_held else []  # its waypoints begin with the cube in the jaws
    return [RETREAT, *again, *left]
