"""The tasks: their instructions, how an episode begins, what counts as done, and the way the expert goes.

A task is one entry of :data:`TASKS`; whatever records, plays or judges episodes takes it from there. ``TARGET`` is what
Sigma learns, ``BASE_TASKS`` are what a base policy is trained on: the same scene, cube and both boxes always present,
and none of them ever lets go of the cube. Distances, thresholds and durations are our own design.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sigma.shared.errors import SigmaError
from sigma.shared.seeding import generator
from sigma.simulation.kinematics import GRASP_ROLL, OPEN, inverse
from sigma.simulation.scene import BOX_HALF, BOXES, CONTROL_HZ, CUBE_HALF, PAN_AXIS, Layout, World
from sigma.simulation.setting import TARGET
from sigma.simulation.waypoints import LIFT, PICK, PUSH, REACH, Waypoint, hold_over, place

HELD_STEPS = CONTROL_HZ // 2  # a success must last this long
_LIFTED = 0.045  # height of the cube's centre above the table
_REACHED = 0.022
_PUSHED = (0.04, 0.09)  # metres away from the robot
_STILL = 0.02  # metres a second


@dataclass(frozen=True)
class Scenario:
    """How one episode begins. ``goal`` is the box that the instruction names, ``pace`` scales the expert's times."""

    layout: Layout
    instruction: str
    goal: str | None
    pace: float

    @property
    def box(self) -> str:
        """``goal``, for a task whose instructions all name a box."""
        if self.goal is None:
            raise ValueError(f"the instruction {self.instruction!r} names no box")
        return self.goal


def _within(distance: float, first: np.ndarray, second: np.ndarray) -> bool:
    return bool(np.linalg.norm(first - second) < distance)


# Milestones. Each reads the world after a control step; `monitor` knows how the episode began.
def near(world: World, _: "Monitor") -> bool:
    return _within(2 * _REACHED, world.gripper_position, world.cube_position)


def enclosed(world: World, _: "Monitor") -> bool:
    return _within(_REACHED, world.gripper_position, world.cube_position)


def undisturbed(world: World, monitor: "Monitor") -> bool:
    return enclosed(world, monitor) and _within(2 * _REACHED, world.cube_position, monitor.cube_start)


def grasped(world: World, _: "Monitor") -> bool:
    return all(world.jaw_contacts())


def lifted(world: World, monitor: "Monitor") -> bool:
    return grasped(world, monitor) and bool(world.cube_position[2] > _LIFTED)


def behind(world: World, _: "Monitor") -> bool:
    """The jaws are low and on the robot's side of the cube."""
    gripper, cube = world.gripper_position, world.cube_position[:2]
    nearer = _within(float(np.linalg.norm(cube - PAN_AXIS)), gripper[:2], PAN_AXIS)
    return nearer and bool(gripper[2] < 0.04) and _within(0.06, gripper[:2], cube)


def moved(world: World, monitor: "Monitor") -> bool:
    return monitor.advance(world) > _PUSHED[0] / 4


def pushed(world: World, monitor: "Monitor") -> bool:
    """Further from the robot, still on the table, and not off to one side."""
    advance = monitor.advance(world)
    aside = np.linalg.norm(world.cube_position[:2] - monitor.cube_start[:2]) ** 2 - advance**2
    on_table = world.cube_position[2] < 2 * CUBE_HALF
    return bool(_PUSHED[0] < advance < _PUSHED[1] and aside < 0.02**2 and on_table)


def over_goal(world: World, monitor: "Monitor") -> bool:
    return world.over_box(monitor.scenario.box)


def near_goal(world: World, monitor: "Monitor") -> bool:
    return _within(2 * BOX_HALF, world.cube_position[:2], world.box_position(monitor.scenario.box)[:2])


def held_over_goal(world: World, monitor: "Monitor") -> bool:
    return over_goal(world, monitor) and lifted(world, monitor)


def released_in_goal(world: World, monitor: "Monitor") -> bool:
    return world.in_box(monitor.scenario.box) and not any(world.jaw_contacts())


def at_rest_in_goal(world: World, monitor: "Monitor") -> bool:
    return released_in_goal(world, monitor) and world.cube_speed < _STILL


Milestone = Callable[[World, "Monitor"], bool]


@dataclass(frozen=True)
class Task:
    """A task. ``milestones`` are passed in this order; the last one, held for half a second, is success."""

    name: str
    instructions: tuple[str, ...]  # small letters and spaces; a box that one names is the episode's goal
    milestones: tuple[Milestone, ...]
    waypoints: Callable[[Scenario], Sequence[Waypoint]]  # of the expert
    max_steps: int  # control steps (10 Hz) after which an episode has failed
    starts_held: bool = False
    distances: tuple[float, float] = (0.15, 0.27)  # of the cube from the shoulder's axis, metres

    def scenario(self, address: int, instruction: str | None = None) -> Scenario:
        """Draw the episode of this address: cube, boxes, start pose, pace and, unless it is given, the instruction.

        Raises :class:`SigmaError` for an instruction that the task does not have.
        """
        draw = generator("scenario", self.name, address)
        drawn = self.instructions[int(draw.integers(len(self.instructions)))]
        if instruction is None:
            instruction = drawn
        elif instruction not in self.instructions:
            raise SigmaError(f"{self.name}: no instruction {instruction!r}; it has {', '.join(self.instructions)}")
        goal = next((box for box in BOXES if f"{box} box" in instruction), None)
        return Scenario(_layout(draw, self), instruction, goal, pace=float(draw.uniform(1.0, 1.35)))


Boxes = dict[str, tuple[float, float]]


def _polar(
    draw: np.random.Generator, radius: tuple[float, float], angle: float, boxes: Boxes, room: float
) -> np.ndarray:
    """A point [2] of the table in front of the arm, more than ``room`` from the centre of every box."""
    while True:
        distance, direction = draw.uniform(*radius), draw.uniform(-angle, angle)
        point = PAN_AXIS + distance * np.array([np.cos(direction), np.sin(direction)])
        if min(np.linalg.norm(point - np.array(box)) for box in boxes.values()) > room:
            return point


def _layout(draw: np.random.Generator, task: Task) -> Layout:
    side = 1 if draw.random() < 0.5 else -1
    boxes = {}
    for name in BOXES:
        boxes[name] = (float(draw.uniform(0.14, 0.28)), float(side * draw.uniform(0.09, 0.145)))
        side = -side
    cube = _polar(draw, task.distances, 0.5, boxes, 0.085)  # the open jaws need room between the cube and a box
    yaw = np.arctan2(*(cube - PAN_AXIS)[::-1]) + draw.uniform(-0.25, 0.25)
    # A held cube begins beside the boxes, not over one.
    start = _polar(draw, (0.15, 0.25), 0.35, boxes, 0.065 if task.starts_held else 0.0)
    opening = OPEN if task.starts_held else draw.uniform(0.0, OPEN)
    roll = GRASP_ROLL + draw.uniform(-0.25, 0.25)
    height = draw.uniform(0.08, 0.12) if task.starts_held else draw.uniform(0.1, 0.17)
    joints = (*inverse(np.array([*start, height]), roll), opening)
    return Layout((float(cube[0]), float(cube[1]), float(yaw)), boxes, tuple(map(float, joints)), task.starts_held)


class Monitor:
    """Follows one episode: milestones passed in order, success, and whether the cube was left in the wrong box."""

    def __init__(self, task: Task, scenario: Scenario, world: World):
        self.task, self.scenario = task, scenario
        self.cube_start = world.cube_position
        self.passed, self.success, self.wrong_box = 0, False, False
        self._held = 0

    def advance(self, world: World) -> float:
        """How far the cube has moved away from the robot along its first direction, in metres."""
        direction = self.cube_start[:2] - PAN_AXIS
        return float((world.cube_position - self.cube_start)[:2] @ direction / np.linalg.norm(direction))

    def update(self, world: World) -> None:
        """Read the world after a control step."""
        milestones = self.task.milestones
        while self.passed < len(milestones) and milestones[self.passed](world, self):
            self.passed += 1
        self._held = self._held + 1 if milestones[-1](world, self) else 0
        self.success = self.success or self._held >= HELD_STEPS
        others = [box for box in BOXES if self.scenario.goal not in (None, box)]
        self.wrong_box = any(world.in_box(box) for box in others) and not any(world.jaw_contacts())

    @property
    def progress(self) -> float:
        """The share of milestones passed; 1 only with success."""
        steps = len(self.task.milestones)
        return 1.0 if self.success else min(self.passed, steps - 0.5) / steps

    def info(self) -> dict[str, float | bool]:
        return {"success": self.success, "progress": self.progress, "wrong_box": self.wrong_box}


TASKS = {
    task.name: task
    for task in (
        Task(
            TARGET,
            ("put the cube in the red box", "put the cube in the blue box"),
            (near, grasped, lifted, over_goal, released_in_goal, at_rest_in_goal),
            lambda scenario: [*PICK, *place(scenario.box)],
            max_steps=110,
        ),
        Task("reach", ("move the gripper to the cube",), (near, enclosed, undisturbed), lambda _: REACH, max_steps=50),
        Task(
            "push",
            ("push the cube forward",),
            (behind, moved, pushed),
            lambda _: PUSH,
            max_steps=80,
            distances=(0.18, 0.24),
        ),
        Task("lift", ("lift the cube",), (near, grasped, lifted), lambda _: [*PICK, LIFT], max_steps=70),
        Task(
            "carry",
            ("hold the cube over the red box", "hold the cube over the blue box"),
            (near_goal, over_goal, held_over_goal),
            lambda scenario: hold_over(scenario.box),
            max_steps=60,
            starts_held=True,
        ),
    )
}
BASE_TASKS = ("reach", "push", "lift", "carry")


def task_named(name: str) -> Task:
    """The task of this name; raises :class:`SigmaError` for an unknown one."""
    if name not in TASKS:
        raise SigmaError(f"task {name!r} does not exist; the tasks are {', '.join(TASKS)}")
    return TASKS[name]
