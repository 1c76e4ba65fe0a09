"""A scripted expert that knows the simulator's poses: waypoints joined by minimum-jerk motions.

The motion is that of Flash and Hogan (1985). A waypoint's goal is read from the world at every step, so that the expert
follows a cube which was nudged. Its plan does not depend on where noise has put the arm: the action it names is the
clean one, and following it leads back.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sigma.simulation.kinematics import CLOSED, GRASP_ROLL, OPEN, inverse
from sigma.simulation.scene import CONTROL_HZ, PAN_AXIS, World, to_units
from sigma.simulation.tasks import Scenario

_ABOVE, _GRASP, _LIFT, _CARRY, _DROP = 0.075, 0.013, 0.085, 0.09, 0.045  # heights of the gripper frame, metres
_SPEED = 0.16  # mean speed of free motions, metres a second
_CLEARANCE = (
    0.008  # the cube lies this far from the gripper frame towards the moving jaw, which leaves room on both sides
)
_PUSH = 0.047  # how far past the cube's first place the jaws go
_TIP = 0.019  # the closed jaws meet this far to the right of the gripper frame
NOISE_MEMORY = 0.8  # the share of the action noise that survives a control step


@dataclass(frozen=True)
class Start:
    """Where gripper frame and cube were when a waypoint began, each [3]."""

    gripper: np.ndarray
    cube: np.ndarray


Goal = Callable[[World, Start], np.ndarray]


@dataclass(frozen=True)
class Waypoint:
    """Bring the gripper frame to ``goal`` [3] and the gripper joint to ``opening`` within ``seconds``."""

    goal: Goal
    opening: float
    seconds: float | None = None  # None: by distance
    slack: float = 1.0  # the share of the action noise that the motion bears


def _beside(point: np.ndarray, radial: float, sideways: float, height: float) -> np.ndarray:
    """A point at ``height``, displaced from ``point`` away from the robot and to the robot's left."""
    along = point[:2] - PAN_AXIS
    along /= np.linalg.norm(along)
    across = np.array([-along[1], along[0]])
    return np.array([*(point[:2] + radial * along + sideways * across), height])


def _at_cube(height: float) -> Goal:
    return lambda world, _: _beside(world.cube_position, 0.0, -_CLEARANCE, height)


def _at_box(name: str, height: float) -> Goal:
    return lambda world, _: np.array([*world.box_position(name)[:2], height])


def _here(height: float) -> Goal:
    return lambda _, start: np.array([*start.gripper[:2], height])


def _behind(height: float) -> Goal:
    return lambda world, _: _beside(world.cube_position, -0.035, _TIP, height)


def _through(_: World, start: Start) -> np.ndarray:
    return _beside(start.cube, _PUSH, _TIP, _GRASP)


def _pick() -> list[Waypoint]:
    return [
        Waypoint(_at_cube(_ABOVE), OPEN),
        Waypoint(_at_cube(_GRASP), OPEN, 0.8, slack=0.4),
        Waypoint(_here(_GRASP), CLOSED, 0.5, slack=0.2),
        Waypoint(_here(_LIFT), CLOSED, 0.8, slack=0.5),
    ]


def _place(box: str) -> list[Waypoint]:
    return [
        Waypoint(_at_box(box, _CARRY), CLOSED),
        Waypoint(_at_box(box, _DROP), CLOSED, 0.6, slack=0.5),
        Waypoint(_at_box(box, _DROP), OPEN, 0.5, slack=0.5),
        Waypoint(_at_box(box, _CARRY), OPEN, 0.6),
    ]


def _hold(box: str) -> list[Waypoint]:
    return [
        Waypoint(_at_box(box, _CARRY), CLOSED),
        Waypoint(_at_box(box, _CARRY), CLOSED, 0.8, slack=0.5),
    ]


def _push() -> list[Waypoint]:
    return [
        Waypoint(_behind(_ABOVE), CLOSED),
        Waypoint(_behind(_GRASP), CLOSED, 0.8, slack=0.4),
        Waypoint(_through, CLOSED, 1.4, slack=0.4),
        Waypoint(_here(_GRASP), CLOSED, 0.6, slack=0.5),
    ]


def _plan(task: str, scenario: Scenario) -> list[Waypoint]:
    if task == "reach":
        return [*_pick()[:2], Waypoint(_at_cube(_GRASP), OPEN, 0.8, slack=0.4)]
    if task == "push":
        return _push()
    if task == "lift":
        return [*_pick(), Waypoint(_here(_LIFT), CLOSED, 0.8, slack=0.5)]
    if task == "carry":
        return _hold(scenario.goal)
    return [*_pick(), *_place(scenario.goal)]


def demonstrate(world: World, task: str, scenario: Scenario) -> Iterator[tuple[np.ndarray, float]]:
    """Yield, once per control step, the expert's action [6] in normalised units and its share of the action noise.

    The caller steps the world between two items.
    """
    command = world.command.copy()
    place, opening = world.gripper_position, float(command[5])
    roll = float(command[4])
    for waypoint in _plan(task, scenario):
        first_place, first_opening, first_roll = place, opening, roll
        start = Start(world.gripper_position, world.cube_position)
        distance = float(np.linalg.norm(waypoint.goal(world, start) - place))
        seconds = waypoint.seconds or max(0.6, distance / _SPEED)
        steps = max(2, round(seconds * scenario.pace * CONTROL_HZ))
        for step in range(1, steps + 1):
            share = step / steps
            blend = share**3 * (10 - 15 * share + 6 * share**2)
            place = first_place + (waypoint.goal(world, start) - first_place) * blend
            opening = first_opening + (waypoint.opening - first_opening) * blend
            roll = first_roll + (GRASP_ROLL - first_roll) * blend
            command[:5] = inverse(place, roll, command[:4])
            command[5] = opening
            yield to_units(command), waypoint.slack
