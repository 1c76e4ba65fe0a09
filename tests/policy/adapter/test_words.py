"""Trained instructions, paraphrases of them, and everything else."""

import numpy as np
import pytest

from sigma.policy.adapter.words import Instructions, normalise_instruction

WORDS = ["put", "place", "the", "cube", "block", "in", "into", "red", "blue", "box", "bin", "lift", "not"]
KNOWN = ["put the cube in the red box", "place the block into the blue bin", "put the block in the blue box"]
OTHERS = ["lift the cube"]


def _embed(texts):
    """A bag of words, which hears no order."""
    return np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=float)


def _measure(*texts, known=KNOWN, others=OTHERS):
    words = Instructions(known, others, _embed(known), _embed(others).reshape(len(others), len(WORDS)))
    return words.measure(texts, _embed([normalise_instruction(text) for text in texts]))


def test_trained_instructions_are_known_whatever_their_case_stops_and_spaces():
    for shown in (
        *KNOWN,
        "Put the cube in the red box.",
        "  PUT THE CUBE IN\tTHE RED   BOX!",
        "put the cube, in the red_box",
    ):
        assert all(score == [0.0] for score in _measure(shown).values()), shown


def test_a_paraphrase_lies_between_a_trained_instruction_and_another_task():
    new, jumbled, other = "place the cube into the red box", "box red the in cube the put", "lift the block"
    meaning, wording = _measure(new, jumbled, other).values()
    assert 0 < meaning[0] < 0.5 < meaning[2] and meaning[1] == pytest.approx(0, abs=1e-6)
    assert 0 < wording[0] < 0.3 < wording[1]
    assert _measure("lift the cube")["meaning"] == pytest.approx(1.0)


def test_new_words_count_beside_new_pairs():
    # Of nine pairs three are new ("" do, do not, not put), of eight words two.
    assert _measure("do not put the cube in the red box")["wording"] == pytest.approx(3 / 10 + 2 / 9)
    assert _measure("...")["wording"] == pytest.approx(2.0)


def test_ordinary_scores_are_those_of_each_trained_instruction_left_out():
    known = [*KNOWN, "place the block in the blue box", "open a drawer"]
    scores = Instructions(known, OTHERS, _embed(known), _embed(OTHERS)).leave_one_out()
    each = [_measure(left, known=[text for text in known if text != left]) for left in known]
    wordings = [score for score in each if score["meaning"][0] <= 0.5 and score["wording"][0] <= 0.3]
    assert 1 <= len(wordings) < len(known), "a task of its own says nothing of wordings"
    for term, score in scores.items():
        np.testing.assert_array_equal(score, np.concatenate([one[term] for one in wordings]))
    alone = Instructions(KNOWN[:1], OTHERS, _embed(KNOWN[:1]), _embed(OTHERS))
    assert {term: len(score) for term, score in alone.leave_one_out().items()} == {"meaning": 0, "wording": 0}


def test_a_base_without_instructions_of_its_own_leaves_the_distance_itself():
    meaning = _measure("place the cube into the red box", "lift", others=[])["meaning"]
    assert 0 < meaning[0] < meaning[1] == pytest.approx(1.0)
