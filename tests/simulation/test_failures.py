"""Kinds of failure on staged worlds."""

import dataclasses

import numpy as np
import pytest

from sigma.simulation import failures
from sigma.simulation.expert import demonstrate
from sigma.simulation.failures import failure_kind
from sigma.simulation.scene import World, to_units
from sigma.simulation.task import Monitor
from sigma.simulation.tasks import TARGET, TASKS, task_named


class Stage:
    """One episode of a task, played step by step."""

    def __init__(self, task: str = TARGET, address: int = 4):
        self.task, self.world = TASKS[task], World()
        self.scenario = self.task.scenario(address, self.task.instructions[0].canonical)
        self.world.reset(self.scenario.layout)
        self.monitor = Monitor(self.task, self.scenario, self.world)

    def expert(self, until=lambda stage: False) -> "Stage":
        for action, _ in demonstrate(self.world, self.task.waypoints(self.scenario), self.scenario.pace):
            self.step(action)
            if until(self):
                break
        return self

    def step(self, action: np.ndarray) -> None:
        self.world.step(action)
        self.monitor.update(self.world)

    def open(self, steps: int = 10) -> "Stage":
        target = to_units(self.world.command)
        target[5] = 100
        for _ in range(steps):
            self.step(target)
        return self

    def wait(self, steps: int = 10) -> "Stage":
        target = to_units(self.world.command)
        for _ in range(steps):
            self.step(target)
        return self

    @property
    def kind(self) -> str | None:
        return failure_kind(self.world, self.monitor)


def passed(count: int):
    return lambda stage: stage.monitor.passed >= count


def test_a_success_is_no_failure():
    stage = Stage().expert()
    assert stage.monitor.success and stage.kind is None
    assert failure_kind(stage.world, stage.monitor, stopped=True) is None


def test_an_arm_that_never_moves_has_not_reached():
    assert Stage().wait().kind == failures.NOT_REACHED


def test_a_stop_is_told_whatever_else_is_true():
    stage = Stage().wait()
    assert failure_kind(stage.world, stage.monitor, stopped=True) == failures.NON_FINITE


def test_reached_with_open_jaws_is_not_grasped():
    stage = Stage().expert(passed(1)).wait()
    assert stage.monitor.passed == 1 and stage.kind == failures.NOT_GRASPED


def test_lifted_and_let_go_beside_the_boxes_is_dropped():
    stage = Stage().expert(passed(3)).open()
    assert not any(stage.world.jaw_contacts()) and stage.kind == failures.DROPPED


def test_held_over_the_right_box_to_the_end_is_not_released():
    stage = Stage().expert(passed(4)).wait()
    assert stage.world.over_box("red") and stage.kind == failures.NOT_RELEASED


def test_carried_into_the_other_box_is_the_wrong_box():
    stage = Stage()
    wrong = dataclasses.replace(stage.scenario, goal="blue")
    for action, _ in demonstrate(stage.world, task_named(TARGET).waypoints(wrong), wrong.pace):
        stage.step(action)
    assert stage.world.in_box("blue") and stage.kind == failures.WRONG_BOX


def test_in_the_right_box_a_moment_before_the_end_is_the_time_limit():
    stage = Stage().expert(passed(5))
    assert not stage.monitor.success and stage.kind == failures.TIME_LIMIT


def test_a_lifted_cube_that_is_still_held_is_the_time_limit_of_lift():
    stage = Stage("lift").expert(passed(3))
    assert not stage.monitor.success and stage.kind == failures.TIME_LIMIT


@pytest.mark.parametrize(("task", "kind"), [("reach", failures.NOT_REACHED), ("push", failures.NOT_REACHED)])
def test_tasks_without_a_grasp_never_ask_for_one(task, kind):
    assert Stage(task).wait().kind == kind
    assert Stage(task).expert(passed(1)).kind == failures.TIME_LIMIT


def test_a_cube_that_was_held_from_the_start_can_be_dropped_or_late():
    assert Stage("carry").wait().kind == failures.TIME_LIMIT
    assert Stage("carry").open().kind == failures.DROPPED


def test_a_cube_that_is_to_be_put_back_can_be_dropped_kept_or_left_elsewhere():
    assert Stage("put_back").wait().kind == failures.NOT_REACHED
    lifted = Stage("put_back").expert(passed(3))
    assert lifted.kind == failures.NOT_SHOWN
    assert Stage("put_back").expert(passed(4)).open().kind == failures.DROPPED
    assert Stage("put_back").expert(passed(5)).open().kind == failures.WRONG_PLACE
    assert Stage("put_back").expert(passed(6)).wait().kind == failures.NOT_RELEASED
    assert Stage("put_back").expert(passed(7)).kind == failures.TIME_LIMIT


def test_before_the_cube_is_there_it_cannot_be_reached():
    assert Stage("shown_box").wait().kind == failures.NOT_REACHED
