"""The words that the robot is told: as many as promised, all different, and no test sentence in a recording."""

from collections import defaultdict

import pytest

from sigma.policy.pi05.small.tokenizer import vocabulary
from sigma.simulation.env import TEXT
from sigma.simulation.instructions import HELD_OUT, WORDINGS
from sigma.simulation.model import BOXES
from sigma.simulation.record import recorded_scenario
from sigma.simulation.setting import Setting
from sigma.simulation.tasks import BASE_TASKS, TARGET, TASKS

INSTRUCTIONS = [told for task in TASKS.values() for told in task.instructions]
RECORDED = {text for told in INSTRUCTIONS for text in told.wordings}


def test_every_instruction_has_its_wordings_and_all_are_different():
    meant = defaultdict(set)
    for told in INSTRUCTIONS:
        assert (len(told.wordings), len(told.held_out)) == (WORDINGS, HELD_OUT)
        for text in told.all_wordings:
            meant[text].add(told.wordings)
    assert all(len(instructions) == 1 for instructions in meant.values())
    assert len(meant) == WORDINGS * 10 + HELD_OUT * 10, "of shown_box one instruction, of carry and the target two each"


def test_wordings_are_short_and_of_words_that_the_shipped_base_knows():
    known = set(vocabulary())
    for task in TASKS.values():
        for text in (*task.texts(), *task.texts(Setting(wording="held_out"))):
            assert TEXT.contains(text) and len(text.split()) <= 14
            assert set(text.split()) <= known, text


def test_held_out_wordings_are_new_sentences_of_recorded_words():
    words = {word for text in RECORDED for word in text.split()}
    for told in INSTRUCTIONS:
        assert RECORDED.isdisjoint(told.held_out)
        assert {word for text in told.held_out for word in text.split()} <= words


@pytest.mark.parametrize("task", TASKS)
def test_no_recording_says_a_held_out_wording(task):
    held_out = set(TASKS[task].texts(Setting(wording="held_out")))
    told = {recorded_scenario(task, 7, index, 0)[1].instruction for index in range(16)}
    assert told.isdisjoint(held_out) and len(told) >= WORDINGS


@pytest.mark.parametrize("task", [TARGET, "carry"])
def test_instructions_for_two_boxes_differ_in_the_colour_alone(task):
    red, blue = TASKS[task].instructions
    assert (red.goal, blue.goal) == BOXES
    assert [text.replace("red", "blue") for text in red.all_wordings] == list(blue.all_wordings)


def test_base_tasks_say_nothing_that_another_task_says():
    base = {text for name in BASE_TASKS for told in TASKS[name].instructions for text in told.all_wordings}
    others = [told for name, task in TASKS.items() if name not in BASE_TASKS for told in task.instructions]
    assert base.isdisjoint(text for told in others for text in told.all_wordings)
