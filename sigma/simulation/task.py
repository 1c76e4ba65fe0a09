"""What a task is, how an episode of it begins, and how an episode is followed.

The tasks themselves are in :mod:`sigma.simulation.tasks`. Distances and durations are our own design.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sigma.shared.errors import SigmaError
from sigma.shared.seeding import generator
from sigma.simulation.instructions import Instruction
from sigma.simulation.kinematics import GRASP_ROLL, OPEN, inverse
from sigma.simulation.model import BOXES
from sigma.simulation.scene import CONTROL_HZ, PAN_AXIS, Cue, Layout, World
from sigma.simulation.setting import PLAIN, Setting
from sigma.simulation.waypoints import Waypoint

HELD_STEPS = CONTROL_HZ // 2  # a success must last this long
LIGHT_STEPS = CONTROL_HZ  # a light that goes off again is on for a second
CUE_DELAYS = (CONTROL_HZ, 8 * CONTROL_HZ)  # from there to the cube's arrival, control steps


@dataclass(frozen=True)
class Scenario:
    """How one episode begins. ``goal`` is the box that is meant, ``pace`` scales the expert's times."""

    layout: Layout
    instruction: str  # as it is spoken
    goal: str | None
    pace: float
    grip: tuple[float, float] = (0.0, 0.0)  # from the cube's middle to where the expert grasps it, outwards and up, m

    @property
    def box(self) -> str:
        """``goal``, for a task whose instructions all mean a box."""
        if self.goal is None:
            raise ValueError(f"the instruction {self.instruction!r} names no box")
        return self.goal

    @property
    def arrival(self) -> int:
        """Control steps before the cube is there."""
        return self.layout.cue.arrival if self.layout.cue else 0


Milestone = Callable[[World, "Monitor"], bool]


@dataclass(frozen=True)
class Task:
    """A task.

    Success: all ``milestones`` were passed in their order, and the last one held for half a second after that; those
    in ``lasting`` are passed when they have held as long.
    """

    name: str
    instructions: tuple[Instruction, ...]
    milestones: tuple[Milestone, ...]
    waypoints: Callable[[Scenario], Sequence[Waypoint]]  # of the expert
    max_steps: int  # control steps (10 Hz), from when the cube is there, after which an episode has failed
    starts_held: bool = False
    distances: tuple[float, float] = (0.15, 0.27)  # of the cube from the shoulder's axis, metres
    lasting: tuple[Milestone, ...] = ()
    grip: float = 0.0  # the expert grasps the cube up to this far from its middle, metres
    cued: bool = False  # a light shows the goal, and the cube comes later
    light_stays: bool = False  # that light never goes off
    twin_of: str | None = None  # the task whose scenes it has at every address

    @property
    def scenes(self) -> str:
        """The name that its scenes are drawn under, which twins share."""
        return self.twin_of or self.name

    def scenario(
        self, address: int, instruction: str | None = None, *, turn: int | None = None, setting: Setting = PLAIN
    ) -> Scenario:
        """Draw the episode of this address: cube, boxes, start pose, pace, light and what is said.

        A recording's ``turn`` n replaces the draw of the words: instructions take turns, and an instruction's
        wordings do, so that any 8 of its turns in a row have each wording once. ``instruction``, any wording of the
        task, replaces them too. ``setting`` says which wordings are drawn, and how long the cube takes to come. Raises
        :class:`SigmaError` for an instruction that the task does not have.
        """
        draw = generator("scenario", self.scenes, address)
        meant = self.instructions[int(draw.integers(len(self.instructions)))]
        layout = _layout(draw, self)
        place = place_numbers(layout)
        if instruction is not None:
            meant, words = self._told(instruction, meant, place)
        elif turn is not None:
            meant = self.instructions[turn % len(self.instructions)]
            words = meant.wordings[turn // len(self.instructions) % len(meant.wordings)]
        else:
            choice = _choice(meant, setting)
            words = choice[int(generator("wording", self.scenes, address).integers(len(choice)))]
        if self.cued and meant.goal is not None:
            layout = replace(layout, cue=self._cue(address, meant.goal, setting))
        pace = float(draw.uniform(1.0, 1.35))
        radial, up = self.grip * generator("grip", self.scenes, address).uniform(-1, 1, size=2)
        return Scenario(layout, words.format(**place), meant.goal, pace, (float(radial), float(up)))

    def texts(self, setting: Setting = PLAIN) -> list[str]:
        """Everything that a setting's episodes can say, with one place for all."""
        told = (words for meant in self.instructions for words in _choice(meant, setting))
        return list(dict.fromkeys(words.format(x=20, y=20) for words in told))

    def _told(self, text: str, drawn: Instruction, place: dict[str, int]) -> tuple[Instruction, str]:
        """The instruction that says this, the drawn one where several do, and its wording."""
        for meant in (drawn, *self.instructions):
            for words in meant.all_wordings:
                if text in (words, words.format(**place)):
                    return meant, words
        known = ", ".join(dict.fromkeys(meant.canonical.format(**place) for meant in self.instructions))
        raise SigmaError(f"{self.name}: no instruction {text!r}; it has {known}, in several wordings")

    def _cue(self, address: int, box: str, setting: Setting) -> Cue:
        if setting.cue_delay is None:
            delay = int(generator("cue", self.scenes, address).integers(*CUE_DELAYS, endpoint=True))
        else:
            delay = round(setting.cue_delay * CONTROL_HZ)
        return Cue(box, None if self.light_stays else LIGHT_STEPS, LIGHT_STEPS + delay)

    def longest(self, setting: Setting = PLAIN) -> int:
        """The control steps of the longest episode that a setting can have."""
        if not self.cued:
            return self.max_steps
        delay = CUE_DELAYS[1] if setting.cue_delay is None else round(setting.cue_delay * CONTROL_HZ)
        return LIGHT_STEPS + delay + self.max_steps


def _choice(meant: Instruction, setting: Setting) -> tuple[str, ...]:
    """The wordings that a setting draws from."""
    choices = {"recorded": meant.wordings, "held_out": meant.held_out, "canonical": meant.wordings[:1]}
    return choices[setting.wording]


Boxes = dict[str, tuple[float, float]]


def place_numbers(layout: Layout) -> dict[str, int]:
    """Where the cube lies, as words can say it: whole centimetres ``x`` ahead of the robot's base, and ``y`` to the
    left of a line 20 cm to the right of it, both positive."""
    return {"x": round(100 * layout.cube[0]), "y": round(100 * layout.cube[1]) + 20}


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
        self._lasted = 0  # control steps for which the milestone that counts now has held

    def advance(self, world: World) -> float:
        """How far the cube has moved away from the robot along its first direction, in metres."""
        direction = self.cube_start[:2] - PAN_AXIS
        return float((world.cube_position - self.cube_start)[:2] @ direction / np.linalg.norm(direction))

    def update(self, world: World) -> None:
        """Read the world after a control step."""
        milestones = self.task.milestones
        while self.passed < len(milestones) and self._passes(milestones[self.passed], world):
            self.passed, self._lasted = self.passed + 1, 0
        if self.passed == len(milestones):
            self._lasted = self._lasted + 1 if milestones[-1](world, self) else 0
            self.success = self.success or self._lasted >= HELD_STEPS
        others = [box for box in BOXES if self.scenario.goal not in (None, box)]
        self.wrong_box = any(world.in_box(box) for box in others) and not any(world.jaw_contacts())

    def _passes(self, milestone: Milestone, world: World) -> bool:
        self._lasted = self._lasted + 1 if milestone(world, self) else 0
        return self._lasted >= (HELD_STEPS if milestone in self.task.lasting else 1)

    @property
    def progress(self) -> float:
        """The share of milestones passed; 1 only with success."""
        steps = len(self.task.milestones)
        return 1.0 if self.success else min(self.passed, steps - 0.5) / steps

    def info(self) -> dict[str, float | bool]:
        return {"success": self.success, "progress": self.progress, "wrong_box": self.wrong_box}
