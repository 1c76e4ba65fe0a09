"""What the robot is told: every instruction of every task, in the words of recordings and in words kept for tests.

The first wording is the canonical one. Recordings and plain episodes use the eight of ``wordings``; the four of
``held_out`` are new combinations of words that recordings use, so that they test a sentence and not a new word. A
wording has at most 14 words of small letters; ``{x}`` and ``{y}`` stand for the place of the cube, two whole numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

WORDINGS, HELD_OUT = 8, 4
_COLOUR = "COLOUR"


@dataclass(frozen=True)
class Instruction:
    """One thing to do. ``goal`` is the box that is meant, None where no box is.

    Two instructions of a task with the same words differ in a goal that the scene shows.
    """

    wordings: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    goal: str | None = None

    @property
    def canonical(self) -> str:
        return self.wordings[0]

    @property
    def all_wordings(self) -> tuple[str, ...]:
        return (*self.wordings, *self.held_out)


def _lines(text: str, goal: str | None) -> tuple[str, ...]:
    return tuple(line.strip().replace(_COLOUR, goal or "") for line in text.strip().splitlines())


def _instruction(wordings: str, held_out: str, goal: str | None = None) -> Instruction:
    """An instruction from texts with a wording a line; the goal stands where the texts say COLOUR."""
    return Instruction(_lines(wordings, goal), _lines(held_out, goal), goal)


def _for_boxes(boxes: Sequence[str], wordings: str, held_out: str) -> tuple[Instruction, ...]:
    return tuple(_instruction(wordings, held_out, box) for box in boxes)


_BOXES = ("red", "blue")

PUT_IN_BOX = _for_boxes(
    _BOXES,
    """
    put the cube in the COLOUR box
    place the cube in the COLOUR box
    drop the block into the COLOUR bin
    set the green cube inside the COLOUR tray
    put the green block into the COLOUR container
    move the cube into the COLOUR bin
    pick up the block and put it in the COLOUR box
    take the green cube to the COLOUR tray and drop it
    """,
    """
    place the block inside the COLOUR tray
    drop the green cube in the COLOUR container
    set the block into the COLOUR box
    take the cube and put it inside the COLOUR bin
    """,
)
HOLD_OVER_BOX = _for_boxes(
    _BOXES,
    """
    hold the cube over the COLOUR box
    keep the cube over the COLOUR box
    hold the block above the COLOUR bin
    carry the green cube over the COLOUR tray
    bring the block above the COLOUR container
    move the green block over the COLOUR box and hold it
    carry the cube to the COLOUR bin and keep it above
    take the green cube over the COLOUR tray and hold it there
    """,
    """
    keep the block above the COLOUR tray
    bring the green cube over the COLOUR bin
    hold the green block over the COLOUR container
    carry the cube above the COLOUR box and keep it there
    """,
)
REACH_CUBE = (
    _instruction(
        """
        move the gripper to the cube
        reach for the block
        bring the gripper to the green cube
        reach the cube
        go to the green block
        move the hand to the block
        move the open jaws around the cube
        approach the green cube with the gripper
        """,
        """
        reach for the green cube
        bring the hand to the cube
        go to the block with the gripper
        move the open gripper around the green block
        """,
    ),
)
PUSH_CUBE = (
    _instruction(
        """
        push the cube forward
        push the block away
        push the green cube away from the robot
        slide the cube forward
        nudge the green block forward
        slide the green block further away
        move the cube forward on the table
        push the block further from the robot
        """,
        """
        slide the block away from the robot
        nudge the cube forward
        push the green block forward on the table
        move the green cube further away
        """,
    ),
)
LIFT_CUBE = (
    _instruction(
        """
        lift the cube
        pick up the block
        raise the green cube
        lift the block up
        pick the cube up from the table
        grasp the green block and lift it
        grab the cube and raise it
        take the green cube off the table
        """,
        """
        raise the block
        pick up the green cube
        grab the green block and lift it up
        lift the cube off the table
        """,
    ),
)
# The same words for both boxes: which one is meant, the light says.
PUT_IN_LIT_BOX = _for_boxes(
    _BOXES,
    """
    put the cube in the box that lit up
    place the block in the box that lit up
    drop the cube into the bin that was lit
    set the green cube inside the tray that lit up
    put the green block into the box that had the light
    move the cube into the container that was glowing
    pick up the block and put it in the box that was shining
    take the green cube to the tray that was shown and drop it
    """,
    """
    place the green cube into the bin that lit up
    drop the block in the tray that was glowing
    set the cube inside the box that was lit
    take the block and put it in the container that had the light
    """,
)
PUT_BACK = (
    _instruction(
        """
        show the cube and put it back
        hold the block up and put it back where it was
        lift the green cube show it and set it down again
        pick up the cube hold it and return it to the same place
        raise the green block and put it back on the same spot
        show the block and return it to where it lay
        take the cube up and put it down where it was
        bring the green cube up and set it back on its original spot
        """,
        """
        show the green cube and set it back where it was
        raise the block hold it and put it down again
        lift the block up and return it to its original spot
        take the green block up and return it to the same place
        """,
    ),
)
PUT_BACK_AT = (
    _instruction(
        """
        show the cube and put it back at {x} {y}
        hold the block up and put it back at {x} {y}
        lift the green cube show it and set it down at {x} {y}
        pick up the cube hold it and return it to {x} {y}
        raise the green block and put it back on {x} {y}
        show the block and return it to {x} {y}
        take the cube up and put it down at {x} {y}
        bring the green cube up and set it back on {x} {y}
        """,
        """
        show the green cube and set it back at {x} {y}
        raise the block hold it and put it down at {x} {y}
        lift the block up and return it to {x} {y}
        take the green block up and set it down on {x} {y}
        """,
    ),
)
