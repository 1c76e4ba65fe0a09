"""The waypoints of the scripted expert's motions; their goals are read from the simulator at every step.

Heights, times and distances are our own design.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sigma.simulation.kinematics import CLOSED, OPEN
from sigma.simulation.scene import PAN_AXIS, World

_ABOVE, _GRASP, _LIFT, _CARRY, _DROP = 0.075, 0.013, 0.085, 0.09, 0.045  # heights of the gripper frame, metres
# The cube lies this far from the gripper frame towards the moving jaw, which leaves room on both sides.
_CLEARANCE = 0.008
_PUSH = 0.047  # how far past the cube's first place the jaws go
SHOW_PLACE = np.array([0.225, 0.0, 0.12])  # where a cube is held up, in the middle of the workspace
_TIP = 0.019  # the closed jaws meet this far to the right of the gripper frame


@dataclass(frozen=True)
class Start:
    """Where gripper frame and cube were when a waypoint began, each [3]."""

    gripper: np.ndarray
    cube: np.ndarray


Goal = Callable[[World, Start], np.ndarray]
# What a waypoint is for: the first ends with the cube in the jaws, the others need it there; it is moved up, held up
# where it is to be seen, and brought where it belongs.
Part = Literal["grasp", "lift", "show", "deliver"]


@dataclass(frozen=True)
class Waypoint:
    """Bring the gripper frame to ``goal`` [3] and the gripper joint to ``opening`` within ``seconds``."""

    goal: Goal
    opening: float
    seconds: float | None = None  # None: by distance
    slack: float = 1.0  # the share of the action noise that the motion bears
    part: Part = "grasp"


def _beside(point: np.ndarray, radial: float, sideways: float, height: float) -> np.ndarray:
    """A point at ``height``, displaced from ``point`` away from the robot and to the robot's left."""
    along = point[:2] - PAN_AXIS
    along /= np.linalg.norm(along)
    across = np.array([-along[1], along[0]])
    return np.array([*(point[:2] + radial * along + sideways * across), height])


def _at_cube(height: float, radial: float = 0.0) -> Goal:
    return lambda world, _: _beside(world.cube_position, radial, -_CLEARANCE, height)


def _at_box(name: str, height: float) -> Goal:
    return lambda world, _: np.array([*world.box_position(name)[:2], height])


def _here(height: float) -> Goal:
    return lambda _, start: np.array([*start.gripper[:2], height])


def _behind(height: float) -> Goal:
    return lambda world, _: _beside(world.cube_position, -0.035, _TIP, height)


def _through(_: World, start: Start) -> np.ndarray:
    return _beside(start.cube, _PUSH, _TIP, _GRASP)


APPROACH = Waypoint(_at_cube(_ABOVE), OPEN)
AROUND_CUBE = Waypoint(_at_cube(_GRASP), OPEN, 0.8, slack=0.4)
LIFT = Waypoint(_here(_LIFT), CLOSED, 0.8, slack=0.5, part="lift")
RETREAT = Waypoint(_here(_LIFT), OPEN, 0.8, slack=0.5)  # let go, and up

# Put the open jaws around the cube and keep them there.
REACH = (APPROACH, AROUND_CUBE, AROUND_CUBE)
# Go behind the cube with closed jaws and push it away from the robot.
PUSH = (
    Waypoint(_behind(_ABOVE), CLOSED),
    Waypoint(_behind(_GRASP), CLOSED, 0.8, slack=0.4),
    Waypoint(_through, CLOSED, 1.4, slack=0.4),
    Waypoint(_here(_GRASP), CLOSED, 0.6, slack=0.5),
)


def pick(grip: tuple[float, float] = (0.0, 0.0)) -> list[Waypoint]:
    """Grasp the cube and lift it; ``grip`` is how far from its middle, away from the robot and up, metres."""
    radial, height = grip[0], _GRASP + grip[1]
    return [
        APPROACH,
        Waypoint(_at_cube(height, radial), OPEN, 0.8, slack=0.4),
        Waypoint(_here(height), CLOSED, 0.5, slack=0.2),
        LIFT,
    ]


def place(box: str) -> list[Waypoint]:
    """Carry the grasped cube to a box and let it go there."""
    return [
        Waypoint(_at_box(box, _CARRY), CLOSED, part="deliver"),
        Waypoint(_at_box(box, _DROP), CLOSED, 0.6, slack=0.5, part="deliver"),
        Waypoint(_at_box(box, _DROP), OPEN, 0.5, slack=0.5, part="deliver"),
        Waypoint(_at_box(box, _CARRY), OPEN, 0.6, part="deliver"),
    ]


def hold_over(box: str) -> list[Waypoint]:
    """Carry the grasped cube to a box and hold it there."""
    return [
        Waypoint(_at_box(box, _CARRY), CLOSED, part="deliver"),
        Waypoint(_at_box(box, _CARRY), CLOSED, 0.8, slack=0.5, part="deliver"),
    ]


def put_back(place: tuple[float, float], grip: tuple[float, float]) -> list[Waypoint]:
    """Hold the cube up at :data:`SHOW_PLACE` for a second, then let it go at this place on the table.

    ``grip`` is how it was picked.
    """

    def there(height: float) -> Goal:
        # The gripper goes where it was when it grasped.
        return lambda *_: _beside(np.array(place), grip[0], -_CLEARANCE, height)

    low = _GRASP + grip[1] + 0.002  # the cube must not be pressed on the table

    def up(*_: object) -> np.ndarray:
        return SHOW_PLACE

    return [
        Waypoint(up, CLOSED, part="show"),
        Waypoint(up, CLOSED, 1.0, slack=0.3, part="show"),
        Waypoint(there(_LIFT), CLOSED, part="deliver"),
        Waypoint(there(low), CLOSED, 0.8, slack=0.4, part="deliver"),
        Waypoint(there(low), OPEN, 0.5, slack=0.2, part="deliver"),
        Waypoint(there(_LIFT), OPEN, 0.7, slack=0.5, part="deliver"),
    ]
