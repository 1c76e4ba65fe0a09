import dataclasses

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.simulation.env import SO101Env
from sigma.simulation.episode import EpisodeSpec
from sigma.simulation.expert import demonstrate
from sigma.simulation.instructions import Instruction
from sigma.simulation.milestones import behind, moved
from sigma.simulation.model import CUBE_HALF
from sigma.simulation.record import demonstration
from sigma.simulation.rollout import run_expert
from sigma.simulation.scene import World
from sigma.simulation.task import HELD_STEPS, Monitor, Task
from sigma.simulation.tasks import BASE_TASKS, TARGET, TASKS, task_named
from sigma.simulation.waypoints import PUSH


@pytest.mark.parametrize("task", (*BASE_TASKS, TARGET))
def test_expert_solves_fresh_seeds(task):
    results = run_expert(range(8), EpisodeSpec(task))
    assert sum(result.success for result in results) >= 7
    assert not any(result.wrong_box for result in results)


def test_a_new_task_is_one_entry(monkeypatch):
    nudge = Task("nudge", (Instruction(("nudge the cube",)),), (behind, moved), lambda _: PUSH, max_steps=80)
    monkeypatch.setitem(TASKS, nudge.name, nudge)
    assert demonstration("nudge", 0, 0, 1.0, (), 96).instruction == "nudge the cube"
    assert all(result.success for result in run_expert(range(3), EpisodeSpec("nudge")))
    assert SO101Env("nudge").max_steps == 80


def test_scenario_depends_on_its_address_alone():
    task = TASKS[TARGET]
    assert task.scenario(5) == task.scenario(5) != task.scenario(6)


def test_instruction_changes_the_goal_and_nothing_else():
    red, blue = (TASKS[TARGET].scenario(5, told.canonical) for told in TASKS[TARGET].instructions)
    assert (red.goal, blue.goal) == ("red", "blue")
    assert red.layout == blue.layout and red.pace == blue.pace


def test_both_goals_and_both_sides_are_drawn():
    scenarios = [TASKS[TARGET].scenario(address) for address in range(40)]
    pairs = {(scenario.goal, scenario.layout.boxes["red"][1] > 0) for scenario in scenarios}
    assert len(pairs) == 4


def test_unknown_task_and_instruction_are_refused_by_name():
    with pytest.raises(SigmaError, match=r"'stack'.*pick_place"):
        task_named("stack")
    with pytest.raises(SigmaError, match=r"'put it away'.*red box"):
        TASKS[TARGET].scenario(0, "put it away")


def _left_in(box: str, passed: int) -> Monitor:
    """A target episode that asks for the red box, so many milestones passed; the cube lies at rest in this box."""
    task, world = TASKS[TARGET], World()
    scenario = task.scenario(4, task.instructions[0].canonical)
    world.reset(scenario.layout)
    monitor = Monitor(task, scenario, world)
    monitor.passed = passed
    world.reset(dataclasses.replace(scenario.layout, cube=(*scenario.layout.boxes[box], 0.0)))
    hold = world.state()
    for _ in range(2 * HELD_STEPS):
        world.step(hold)
        monitor.update(world)
    return monitor


def test_cube_in_the_named_box_is_success_after_the_milestones_before():
    monitor = _left_in("red", passed=3)
    assert monitor.success and monitor.progress == 1.0 and not monitor.wrong_box
    assert not _left_in("red", passed=2).success, "it was never lifted"


def test_cube_in_the_other_box_is_failure_and_recorded_apart():
    monitor = _left_in("blue", passed=3)
    assert not monitor.success and monitor.wrong_box and monitor.progress < 1.0


def test_cube_beside_the_box_is_not_in_it():
    scenario = TASKS[TARGET].scenario(4)
    x, y = scenario.layout.boxes["red"]
    world = World()
    world.reset(dataclasses.replace(scenario.layout, cube=(x + 0.036 + 2 * CUBE_HALF, y, 0.0)))
    assert not world.in_box("red")


@pytest.mark.parametrize("task", (*BASE_TASKS, TARGET))
def test_doing_nothing_fails(task):
    world = World()
    for address in range(8):
        scenario = TASKS[task].scenario(address)
        world.reset(scenario.layout)
        monitor, hold = Monitor(TASKS[task], scenario, world), world.state()
        for _ in range(TASKS[task].max_steps):
            world.step(hold)
            monitor.update(world)
        assert not monitor.success and monitor.progress < 0.5


def test_progress_rises_with_the_milestones_of_a_target_episode():
    task, world = TASKS[TARGET], World()
    scenario = task.scenario(0)
    world.reset(scenario.layout)
    monitor, seen = Monitor(task, scenario, world), []
    for action, _ in demonstrate(world, task_named(TARGET).waypoints(scenario), scenario.pace):
        world.step(action)
        monitor.update(world)
        seen.append(monitor.progress)
    assert (np.diff(seen) >= 0).all()
    assert {passed / len(task.milestones) for passed in range(len(task.milestones))} <= set(seen)
    assert seen[-1] == 1.0


def test_time_limit_ends_an_episode():
    env = SO101Env(TARGET, max_steps=3)
    env.begin(0)
    assert [env.advance(env.world.state()) for _ in range(3)] == [(False, False), (False, False), (False, True)]
