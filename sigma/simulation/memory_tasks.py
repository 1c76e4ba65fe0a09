"""Tasks that need memory, and their twins, which differ in nothing but the need for it.

``shown_box``: a light shows a box for a second, and the cube comes seconds later. What to wait for is seen; which box
it was must be remembered. ``shown_box_lit`` leaves the light on, ``shown_box_told`` says the box. ``put_back``: the
cube is shown at one place in the air and goes back to where it lay, which at that place nothing shows any more;
``put_back_told`` says where it lay. A twin has its task's scenes, light and delay at every address.
"""

from sigma.simulation.instructions import PUT_BACK, PUT_BACK_AT, PUT_IN_BOX, PUT_IN_LIT_BOX
from sigma.simulation.milestones import (
    at_rest_back,
    at_rest_in_goal,
    back,
    grasped,
    held_still,
    lifted,
    near,
    over_goal,
    released_back,
    released_in_goal,
    shown,
)
from sigma.simulation.task import Scenario, Task
from sigma.simulation.waypoints import PICK, Waypoint, place, put_back

PLACED_IN_BOX = (near, grasped, lifted, over_goal, released_in_goal, at_rest_in_goal)
SHOWN_AND_BACK = (near, grasped, lifted, shown, held_still, back, released_back, at_rest_back)


def _pick_and_place(scenario: Scenario) -> list[Waypoint]:
    return [*PICK, *place(scenario.box)]


def _put_back(scenario: Scenario) -> list[Waypoint]:
    return [*PICK, *put_back(scenario.layout.cube[:2])]


MEMORY_TASKS = (
    Task("shown_box", PUT_IN_LIT_BOX, PLACED_IN_BOX, _pick_and_place, max_steps=120, cued=True),
    Task("put_back", PUT_BACK, SHOWN_AND_BACK, _put_back, max_steps=170, lasting=(held_still,)),
    Task(
        "shown_box_lit",
        PUT_IN_LIT_BOX,
        PLACED_IN_BOX,
        _pick_and_place,
        max_steps=120,
        cued=True,
        light_stays=True,
        twin_of="shown_box",
    ),
    Task(
        "shown_box_told",
        PUT_IN_BOX,
        PLACED_IN_BOX,
        _pick_and_place,
        max_steps=120,
        cued=True,
        twin_of="shown_box",
    ),
    Task(
        "put_back_told",
        PUT_BACK_AT,
        SHOWN_AND_BACK,
        _put_back,
        max_steps=170,
        lasting=(held_still,),
        twin_of="put_back",
    ),
)
