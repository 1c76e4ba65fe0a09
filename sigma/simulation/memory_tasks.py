"""Tasks that need memory, and their twins, which differ in nothing but the need for it.

``shown_box``: a light shows a box for a second, and the cube comes seconds later. What to wait for is seen; which box
it was must be remembered. ``shown_box_lit`` leaves the light on, ``shown_box_told`` says the box. ``put_back``: the
cube is shown at one place in the air and goes back to where it lay, which at that place nothing shows any more;
``put_back_told`` says where it lay. A twin has its task's scenes, light and delay at every address.
"""

from dataclasses import replace

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
from sigma.simulation.waypoints import Waypoint, pick, place, put_back

PLACED_IN_BOX = (near, grasped, lifted, over_goal, released_in_goal, at_rest_in_goal)
# The arm sags a millimetre more over a far cube than over a near one. Grasped up to this far from its middle, metres,
# the cube tells little by the way it sits in the jaws of how far away it lay.
_GRIP = 0.004
SHOWN_AND_BACK = (near, grasped, lifted, shown, held_still, back, released_back, at_rest_back)


def pick_and_place(scenario: Scenario) -> list[Waypoint]:
    return [*pick(), *place(scenario.box)]


def _put_back(scenario: Scenario) -> list[Waypoint]:
    return [*pick(scenario.grip), *put_back(scenario.layout.cube[:2], scenario.grip)]


_SHOWN_BOX = Task("shown_box", PUT_IN_LIT_BOX, PLACED_IN_BOX, pick_and_place, max_steps=110, cued=True)
_PUT_BACK = Task("put_back", PUT_BACK, SHOWN_AND_BACK, _put_back, max_steps=140, lasting=(held_still,), grip=_GRIP)
MEMORY_TASKS = (
    _SHOWN_BOX,
    _PUT_BACK,
    replace(_SHOWN_BOX, name="shown_box_lit", light_stays=True, twin_of="shown_box"),
    replace(_SHOWN_BOX, name="shown_box_told", instructions=PUT_IN_BOX, twin_of="shown_box"),
    replace(_PUT_BACK, name="put_back_told", instructions=PUT_BACK_AT, twin_of="put_back"),
)
