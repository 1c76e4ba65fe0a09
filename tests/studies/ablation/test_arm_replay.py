"""Factors of other episodes: at the nearest phase, of the same split, and drawn by seed where several are as near."""

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.studies.ablation.arm_replay import donor_windows, scored_windows


class Windows:
    """Only the columns that donors are chosen by: episodes of given lengths, decisions every 8 steps."""

    def __init__(self, lengths: dict[int, int], split: dict[int, str]):
        rows = [(episode, step) for episode, length in lengths.items() for step in range(0, 8 * length, 8)]
        episode, step = (np.array(values) for values in zip(*rows, strict=True))
        self.split = np.array([split[one] for one in episode])
        self.columns = {"episode": episode, "step": step, "split": self.split}


@pytest.fixture
def windows() -> Windows:
    lengths = {0: 5, 1: 3, 2: 5, 3: 4, 4: 4, 5: 2}
    return Windows(lengths, {0: "train", 1: "test", 2: "test", 3: "test", 4: "validation", 5: "validation"})


def test_a_donor_is_of_another_episode_of_the_same_split_at_the_nearest_phase(windows):
    rows = scored_windows(windows)
    assert (windows.split[rows] != "train").all() and len(rows) == 18
    donors = donor_windows(windows, rows, seed=0)
    assert sorted(donors) == list(rows)
    columns = windows.columns
    last = {one: columns["step"][columns["episode"] == one].max() for one in np.unique(columns["episode"])}
    phase = columns["step"] / np.array([last[one] for one in columns["episode"]])
    for window, donor in donors.items():
        assert columns["episode"][donor] != columns["episode"][window]
        assert columns["split"][donor] == columns["split"][window]
        others = [
            row
            for row in rows
            if columns["split"][row] == columns["split"][window]
            and columns["episode"][row] != columns["episode"][window]
        ]
        assert abs(phase[donor] - phase[window]) == pytest.approx(
            min(abs(phase[row] - phase[window]) for row in others)
        )


def test_equally_near_donors_are_drawn_by_seed(windows):
    rows = scored_windows(windows)
    first = {seed: donor_windows(windows, rows, seed=seed) for seed in range(8)}
    assert donor_windows(windows, rows, seed=3) == first[3]
    begins = [int(row) for row in rows if windows.columns["step"][row] == 0 and windows.split[row] == "test"]
    assert {first[seed][begins[0]] for seed in first} == set(begins[1:]), "every first decision has phase 0"


def test_a_split_of_one_episode_has_no_donors():
    alone = Windows({0: 3, 1: 3, 2: 2}, {0: "test", 1: "test", 2: "validation"})
    with pytest.raises(SigmaError, match=r"a single validation episode.*window\.validation"):
        donor_windows(alone, scored_windows(alone), seed=0)
