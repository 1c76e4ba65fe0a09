from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma.data.windows.split import SPLITS, split_episodes
from sigma.shared.errors import SigmaError


@given(
    st.dictionaries(st.integers(0, 500), st.integers(0, 3), min_size=4, max_size=60), st.data(), st.integers(0, 2**32)
)
def test_every_episode_is_in_exactly_one_split(task_of, data, seed):
    validation = data.draw(st.integers(2, len(task_of) - 2))
    test = data.draw(st.integers(1, len(task_of) - validation - 1))
    splits = split_episodes(task_of, validation, test, seed)
    assert tuple(splits) == SPLITS
    assert sorted(episode for part in splits.values() for episode in part) == sorted(task_of)
    assert (len(splits["validation"]), len(splits["test"])) == (validation, test)
    for part in splits.values():
        assert part == sorted(part)


def test_tasks_keep_their_share_in_every_split():
    task_of = {episode: int(episode >= 50) for episode in range(125)}
    splits = split_episodes(task_of, 25, 50, seed=0)
    counts = {name: Counter(task_of[episode] for episode in part) for name, part in splits.items()}
    assert counts == {"train": {0: 20, 1: 30}, "validation": {0: 10, 1: 15}, "test": {0: 20, 1: 30}}


def test_split_depends_on_the_seed_and_on_nothing_else():
    task_of = {episode: episode % 3 for episode in range(40)}
    once = split_episodes(task_of, 5, 10, seed=1)
    assert once == split_episodes(dict(reversed(task_of.items())), 5, 10, seed=1)
    assert once != split_episodes(task_of, 5, 10, seed=2)


def test_fractions_are_of_all_episodes():
    splits = split_episodes(dict.fromkeys(range(50), 0), 0.2, 0.4, seed=0)
    assert {name: len(part) for name, part in splits.items()} == {"train": 20, "validation": 10, "test": 20}


def test_no_episode_left_for_training_is_refused():
    with pytest.raises(
        SigmaError, match="25 \\+ 50 episodes leave none of 60 for training; legal: together at most 59"
    ):
        split_episodes(dict.fromkeys(range(60), 0), 25, 50, seed=0)


@pytest.mark.parametrize(
    ("validation", "test", "line"),
    [
        (1, 3, "window.validation: 1 of 10 episodes; legal: at least 2 "),
        (0.1, 3, "window.validation: 1 of 10 episodes; legal: at least 2 "),
        (0, 3, "window.validation: 0 of 10 episodes; legal: at least 2 "),
        (3, 0, "window.test: 0 of 10 episodes; legal: at least 1 "),
    ],
)
def test_too_few_held_out_episodes_to_calibrate_or_to_score_are_refused(validation, test, line):
    with pytest.raises(SigmaError, match=f"^params.yaml: {line}"):
        split_episodes(dict.fromkeys(range(10), 0), validation, test, seed=0)
