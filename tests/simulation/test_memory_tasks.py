"""Tasks that need memory: what is seen when, what counts as done, and that a twin differs in one thing alone."""

from dataclasses import replace

import numpy as np
import pytest

from sigma.simulation.env import SO101Env
from sigma.simulation.episode import EpisodeSpec
from sigma.simulation.expert import demonstrate
from sigma.simulation.memory_tasks import MEMORY_TASKS
from sigma.simulation.rollout import run_expert
from sigma.simulation.scene import World, to_units
from sigma.simulation.setting import Setting
from sigma.simulation.task import CUE_DELAYS, LIGHT_STEPS, Monitor
from sigma.simulation.tasks import TASKS, task_named

SHOWN = TASKS["shown_box"]


@pytest.mark.parametrize("task", [task.name for task in MEMORY_TASKS])
def test_expert_solves_fresh_seeds(task):
    results = run_expert(range(6), EpisodeSpec(task, cameras=()))
    assert all(result.success for result in results)
    assert max(result.steps for result in results) < 0.8 * TASKS[task].longest()


@pytest.mark.parametrize("twin", [task for task in MEMORY_TASKS if task.twin_of])
def test_a_twin_has_the_scenes_of_its_task(twin):
    for address in range(12):
        own, other = twin.scenario(address), TASKS[twin.twin_of].scenario(address)
        assert (own.goal, own.pace, own.grip) == (other.goal, other.pace, other.grip)
        assert replace(own.layout, cue=None) == replace(other.layout, cue=None)
        assert own.arrival == other.arrival


def test_words_of_shown_box_say_nothing_of_the_box_and_those_of_its_twin_do():
    for address in range(12):
        scenario = SHOWN.scenario(address)
        assert scenario.layout.cue.box == scenario.goal and not {"red", "blue"} & set(scenario.instruction.split())
        assert scenario.goal in TASKS["shown_box_told"].scenario(address).instruction
        text = scenario.instruction
        assert SHOWN.scenario(address, text) == scenario, "words that fit both boxes leave the drawn one"


def test_the_cube_comes_after_a_delay_that_a_setting_can_fix():
    delays = [SHOWN.scenario(address).arrival - LIGHT_STEPS for address in range(200)]
    assert CUE_DELAYS[0] <= min(delays) < 15 and 75 < max(delays) <= CUE_DELAYS[1]
    env = SO101Env("shown_box", cameras=(), setting=Setting(cue_delay=1.5))
    env.begin(3)
    hold = env.world.state()
    for _ in range(LIGHT_STEPS + 15):
        assert env.world.waiting and np.linalg.norm(env.world.cube_position) > 10
        assert env.advance(hold) == (False, False)
    assert not env.world.waiting
    np.testing.assert_allclose(env.world.cube_position[:2], env.scenario.layout.cube[:2], atol=1e-3)
    assert env.limit == LIGHT_STEPS + 15 + SHOWN.max_steps == env.max_steps


def lamp_pixels(world: World, other: World) -> int:
    """Pixels of the top view that shine yellow in the one world and not in the other."""
    bright = [view[..., 1].astype(int) - view[..., 2] for view in (world.render("up"), other.render("up"))]
    return int((bright[0] > bright[1] + 100).sum())


@pytest.mark.render
def test_the_light_is_seen_from_above_while_it_is_lit_and_never_again():
    for address in range(8):
        shown, lit, dark = World(), World(), World()
        layout = SHOWN.scenario(address).layout
        shown.reset(layout)
        lit.reset(TASKS["shown_box_lit"].scenario(address).layout)
        dark.reset(replace(layout, cue=replace(layout.cue, lit=0)))
        hold = shown.state()
        for step in range(LIGHT_STEPS + 2):
            if step in (0, LIGHT_STEPS - 1, LIGHT_STEPS, LIGHT_STEPS + 1):
                seen = lamp_pixels(shown, dark)
                assert seen > 80 if step < LIGHT_STEPS else seen == 0
                assert lamp_pixels(lit, dark) > 80
            for world in (shown, lit, dark):
                world.step(hold)


@pytest.mark.render
def test_once_the_light_is_off_nothing_shows_which_box_it_was():
    views = []
    for box in ("red", "blue"):
        world, scenario = World(), SHOWN.scenario(5)
        world.reset(replace(scenario.layout, cue=replace(scenario.layout.cue, box=box)))
        hold, seen = to_units(world.command), []
        for step in range(scenario.arrival + 3):
            if step in (0, LIGHT_STEPS) or step >= scenario.arrival:
                seen.append(np.stack([world.render("up"), world.render("wrist")]))
            world.step(hold)
        views.append(np.stack(seen))
    assert not np.array_equal(views[0][0], views[1][0])
    np.testing.assert_array_equal(views[0][1:], views[1][1:])
    assert not np.array_equal(views[0][1], views[0][2]), "the cube has come"


def test_a_cube_that_lies_where_it_lay_counts_only_after_it_was_shown():
    task, world = TASKS["put_back"], World()
    scenario = task.scenario(2)
    world.reset(scenario.layout)
    monitor = Monitor(task, scenario, world)
    # Lifted and set down again at once: all but the milestones in between.
    way = [*task.waypoints(scenario)[:4], *task.waypoints(scenario)[-4:]]
    shortened = replace(task, waypoints=lambda _: way)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "put_back", shortened)
        for action, _ in demonstrate(world, task_named("put_back").waypoints(scenario), scenario.pace):
            world.step(action)
            monitor.update(world)
    assert task.milestones[-1](world, monitor) and monitor.passed == 3 and not monitor.success


def test_told_numbers_are_the_place_in_centimetres():
    task = TASKS["put_back_told"]
    for address in range(20):
        scenario = task.scenario(address)
        x, y = (int(word) for word in scenario.instruction.split()[-2:])
        np.testing.assert_allclose((x / 100, y / 100 - 0.2), scenario.layout.cube[:2], atol=0.0051)
        assert x > 0 and y > 0
