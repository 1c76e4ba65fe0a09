"""What dataset, base and parameters cannot be together is said by the first stage."""

import copy

import pytest

from sigma.shared.errors import SigmaError
from tests.bases import STATISTICS, write_tiny_base
from tests.datasets import write_dataset
from tests.worlds import World


def test_episodes_that_are_all_shorter_than_the_horizon_are_refused_by_fetch(tmp_path):
    write_tiny_base(tmp_path / "base")
    write_dataset(tmp_path / "recorded", lengths=(7, 5, 7, 6, 7, 5, 7, 6))
    with pytest.raises(
        SigmaError, match=r"window\.horizon: 8 frames, but the longest episode has 7; legal here: 1 to 7"
    ):
        World(tmp_path).run("fetch")


def test_episodes_that_the_audit_leaves_out_are_not_there_to_be_held_out(tmp_path):
    write_tiny_base(tmp_path / "base")
    write_dataset(tmp_path / "recorded", lengths=(28,) * 8)
    changes = {"audit": {"exclude": [0, 1, 2, 3]}, "window": {"validation": 2, "test": 2}}
    with pytest.raises(SigmaError, match=r"window\.validation \+ window\.test: 2 \+ 2 episodes leave none of 4"):
        World(tmp_path).run("fetch", changes=changes)


def test_a_joint_that_the_bases_statistics_hardly_know_is_refused_by_fetch(tmp_path):
    statistics = copy.deepcopy(STATISTICS)
    for columns in statistics.values():
        columns.q99[2] = columns.q01[2] + 0.001
    write_tiny_base(tmp_path / "base", statistics=statistics)
    write_dataset(tmp_path / "recorded", lengths=(28,) * 8)
    with pytest.raises(SigmaError, match=r"base\.statistics: found checkpoint, in which .*never moves \(by 0\.00"):
        World(tmp_path).run("fetch")
