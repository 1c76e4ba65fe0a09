"""Why an episode failed, read from the simulator's state when it ended.

Own design. The kind is the first of these that holds:

- ``non-finite action``: the policy's action was no number, and the robot stopped.
- ``wrong box``: the cube lies in a box that was not asked for, out of the jaws.
- ``not reached``: the gripper never came to the cube (or behind it, to push), and the cube was never held.
- ``not grasped``: it came there, the task asks for a grasp, and the cube was never between both jaws.
- ``dropped``: the cube was held, and lies now outside the jaws and outside the right box.
- ``wrong place``: the cube was shown, and lies now outside the jaws and away from where it lay.
- ``not shown``: the cube was held, and not for long enough where the task wants it shown.
- ``not released``: the task ends with an open gripper, and the cube is still in the jaws.
- ``time limit``: none of these; what remains is to do it better or faster.
"""

from sigma.simulation.milestones import back, grasped, held_still, released_in_goal
from sigma.simulation.scene import World
from sigma.simulation.task import Monitor

NON_FINITE, WRONG_BOX, NOT_REACHED, NOT_GRASPED = "non-finite action", "wrong box", "not reached", "not grasped"
DROPPED, WRONG_PLACE, NOT_SHOWN = "dropped", "wrong place", "not shown"
NOT_RELEASED, TIME_LIMIT = "not released", "time limit"


def failure_kind(world: World, monitor: Monitor, *, stopped: bool = False) -> str | None:
    """The kind of the failure, None for a success; ``stopped`` says that an action was not finite."""
    if monitor.success:
        return None
    if stopped:
        return NON_FINITE
    if monitor.wrong_box:
        return WRONG_BOX
    task, goal = monitor.task, monitor.scenario.goal
    if not task.starts_held and grasped not in task.milestones[: monitor.passed]:  # the cube was never held
        if monitor.passed == 0:
            return NOT_REACHED
        return NOT_GRASPED if grasped in task.milestones else TIME_LIMIT
    in_jaws = all(world.jaw_contacts())
    if held_still in task.milestones:
        return _not_put_back(world, monitor, in_jaws)
    if not in_jaws and not (goal is not None and world.in_box(goal)):
        return DROPPED
    if in_jaws and released_in_goal in task.milestones:
        return NOT_RELEASED
    return TIME_LIMIT


def _not_put_back(world: World, monitor: Monitor, in_jaws: bool) -> str:
    """The kind where the cube was to be shown and put back, and has been in the jaws."""
    was_shown = held_still in monitor.task.milestones[: monitor.passed]
    if not in_jaws and not back(world, monitor):
        return WRONG_PLACE if was_shown else DROPPED
    if not was_shown:
        return NOT_SHOWN
    return NOT_RELEASED if in_jaws else TIME_LIMIT
