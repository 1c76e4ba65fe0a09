"""The tasks: their instructions, what counts as done, and the way the expert goes.

A task is one entry of :data:`TASKS`; whatever records, plays or judges episodes takes it from there. ``TARGET`` is what
Sigma learns, ``BASE_TASKS`` are what a base policy is trained on: the same scene, cube and both boxes always present,
and none of them ever lets go of the cube.
"""

from sigma.shared.errors import SigmaError
from sigma.simulation.instructions import HOLD_OVER_BOX, LIFT_CUBE, PUSH_CUBE, PUT_IN_BOX, REACH_CUBE
from sigma.simulation.memory_tasks import MEMORY_TASKS, PLACED_IN_BOX, pick_and_place
from sigma.simulation.milestones import (
    behind,
    enclosed,
    grasped,
    held_over_goal,
    lifted,
    moved,
    near,
    near_goal,
    over_goal,
    pushed,
    undisturbed,
)
from sigma.simulation.setting import TARGET
from sigma.simulation.task import Task
from sigma.simulation.waypoints import LIFT, PUSH, REACH, hold_over, pick

TASKS = {
    task.name: task
    for task in (
        Task(TARGET, PUT_IN_BOX, PLACED_IN_BOX, pick_and_place, max_steps=110),
        Task("reach", REACH_CUBE, (near, enclosed, undisturbed), lambda _: REACH, max_steps=50),
        Task("push", PUSH_CUBE, (behind, moved, pushed), lambda _: PUSH, max_steps=80, distances=(0.18, 0.24)),
        Task("lift", LIFT_CUBE, (near, grasped, lifted), lambda _: [*pick(), LIFT], max_steps=70),
        Task(
            "carry",
            HOLD_OVER_BOX,
            (near_goal, over_goal, held_over_goal),
            lambda scenario: hold_over(scenario.box),
            max_steps=60,
            starts_held=True,
        ),
        *MEMORY_TASKS,
    )
}
BASE_TASKS = ("reach", "push", "lift", "carry")


def task_named(name: str) -> Task:
    """The task of this name; raises :class:`SigmaError` for an unknown one."""
    if name not in TASKS:
        raise SigmaError(f"task {name!r} does not exist; the tasks are {', '.join(TASKS)}")
    return TASKS[name]
