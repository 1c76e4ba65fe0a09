"""The rows that Sigma has to beat."""

import numpy as np
import pytest

from sigma.evaluation.references import hold_state, mean_trajectory, reference_plans
from sigma.shared.tables import read_columns
from tests.predictions import T, write_predictions


def test_hold_state_repeats_the_state_of_now():
    hold = np.array([[0.1, -0.2]])
    assert hold_state(hold, 3).tolist() == [[[0.1, -0.2]] * 3]


def test_mean_trajectory_averages_the_train_windows_nearest_in_time():
    step = np.array([0, 0, 8, 0, 3, 5, 100])
    train = np.array([True, True, True, False, False, False, False])
    target = np.arange(7.0)[:, None, None] * np.ones((7, 2, 1))
    valid = np.ones((7, 2), dtype=bool)
    valid[1, 1] = False
    result = mean_trajectory(target, valid, step, train)[..., 0]
    assert result[3].tolist() == [0.5, 0.0]  # windows 0 and 1; the padded step of window 1 is left out
    assert result[4].tolist() == [0.5, 0.0]
    assert result[5].tolist() == [2.0, 2.0]
    assert result[6].tolist() == [2.0, 2.0]


def test_mean_trajectory_takes_both_neighbours_at_equal_distance_and_padding_where_nothing_else_is():
    target = np.array([[[1.0], [2.0]], [[3.0], [4.0]], [[9.0], [9.0]]])
    valid = np.array([[True, False], [True, False], [True, True]])
    result = mean_trajectory(target, valid, np.array([0, 4, 2]), np.array([True, True, False]))
    assert result[2, :, 0].tolist() == [2.0, 3.0]


def test_references_never_read_held_out_actions(tmp_path):
    write_predictions(tmp_path, test=2)
    base, _ = read_columns(tmp_path / "data/predictions/baseline.parquet", ["action"])
    before = reference_plans(base)
    changed = base["action"].copy()
    changed[base["split"] != "train"] += 5.0
    after = reference_plans(base | {"action": changed})
    for name, plan in before.items():
        assert plan.shape[1] == T
        assert np.array_equal(plan, after[name]), name
    samples = base["base_samples"]
    assert before["base_mean_of_samples"] == pytest.approx(np.mean(samples, axis=1), abs=1e-6)
    assert np.array_equal(before["base_one_sample"], samples[:, 0])
