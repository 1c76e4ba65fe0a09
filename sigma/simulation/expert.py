"""A scripted expert that knows the simulator's poses: a task's waypoints, joined by minimum-jerk motions.

The motion is that of Flash and Hogan (1985). A waypoint's goal is read from the world at every step, so that the expert
follows a cube that was nudged. Its plan does not depend on where noise has moved the arm: the action is the clean one,
and executing it leads back.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from sigma.simulation.kinematics import GRASP_ROLL, inverse
from sigma.simulation.milestones import grasped, held_still
from sigma.simulation.scene import CONTROL_HZ, World, to_units
from sigma.simulation.task import Monitor
from sigma.simulation.waypoints import RETREAT, Start, Waypoint, pick

_SPEED = 0.16  # mean speed of free motions, metres a second
NOISE_MEMORY = 0.8  # the share of the action noise that survives a control step


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
            share = step / steps
            blend = share**3 * (10 - 15 * share + 6 * share**2)
            place = first_place + (waypoint.goal(world, start) - first_place) * blend
            opening = first_opening + (waypoint.opening - first_opening) * blend
            roll = first_roll + (GRASP_ROLL - first_roll) * blend
            command[:5] = inverse(place, roll, command[:4])
            command[5] = opening
            yield to_units(command), waypoint.slack


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
    if monitor.task.milestones[-1](world, monitor):  # it lies where it belongs: away from it, and wait
        return [RETREAT, RETREAT]
    again = pick() if monitor.task.starts_held else []  # its waypoints begin with the cube in the jaws
    return [RETREAT, *again, *left]
