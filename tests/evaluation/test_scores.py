"""Errors by window, step and joint, and the windows in which the gripper moves."""

import numpy as np
import pytest

from sigma.evaluation import scores

W, T, C, D = 5, 6, 3, 2
ALL = np.ones(D, dtype=bool)


@pytest.fixture
def material():
    random = np.random.default_rng(0)
    target = random.normal(size=(W, T, D)).astype(np.float32)
    plan = random.normal(size=(W, T, D)).astype(np.float32)
    valid = np.ones((W, T), dtype=bool)
    valid[0, 2:] = False
    return plan, target, valid


def test_each_metric_scores_its_own_span_of_valid_steps(material):
    plan, target, valid = material
    errors = scores.window_errors(scores.plan_arm(plan, C), target, valid, ALL)
    for metric, span in (("mse_vec", 1), ("mse_chk", C), ("mse_trj", T), ("mse_plan", T)):
        for row in range(W):
            steps = [step for step in range(span) if valid[row, step]]
            difference = plan[row, steps].astype(float) - target[row, steps].astype(float)
            assert errors[metric][row] == pytest.approx((difference**2).mean())


def test_padding_cannot_change_a_score(material):
    plan, target, valid = material
    before = scores.window_errors(scores.plan_arm(plan, C), target, valid, ALL)
    step_before = scores.step_errors(plan, target, valid, ALL)
    joint_before = scores.joint_errors(plan, target, valid)
    target[~valid] = np.nan
    plan[~valid] = 1e30
    after = scores.window_errors(scores.plan_arm(plan, C), target, valid, ALL)
    assert all(np.array_equal(before[metric], after[metric]) for metric in scores.METRICS)
    assert np.array_equal(step_before, scores.step_errors(plan, target, valid, ALL))
    assert np.array_equal(joint_before, scores.joint_errors(plan, target, valid))


def test_an_excluded_joint_does_not_count(material):
    plan, target, valid = material
    plan[..., 1] = 1e6
    errors = scores.window_errors(scores.plan_arm(plan, C), target, valid, np.array([True, False]))
    alone = scores.window_errors(scores.plan_arm(plan[..., :1], C), target[..., :1], valid, np.array([True]))
    np.testing.assert_allclose(errors["mse_trj"], alone["mse_trj"])


def test_steps_average_over_the_windows_that_have_them(material):
    plan, target, valid = material
    errors = scores.step_errors(plan, target, valid, ALL)
    expected = ((plan[1:, 4].astype(float) - target[1:, 4].astype(float)) ** 2).mean()
    assert errors.shape == (T,)
    assert errors[4] == pytest.approx(expected)
    assert scores.step_errors(plan, target, np.zeros((W, T), bool), ALL).tolist() == [0.0] * T


def test_joint_units_undo_the_normalisation():
    low, high = np.array([-100.0, 0.0]), np.array([100.0, 30.0])
    raw = np.array([[[20.0, 3.0]]]), np.array([[[50.0, 9.0]]])
    normalised = [2 * (values - low) / (high - low) - 1 for values in raw]
    mse = scores.joint_errors(*normalised, np.ones((1, 1), dtype=bool))
    np.testing.assert_allclose(scores.in_joint_units(mse, low, high), [30.0, 6.0])


def test_a_window_is_critical_when_the_recorded_gripper_moves_beyond_the_threshold_on_valid_steps():
    target = np.zeros((4, T, D))
    target[0, 3:, 1] = 0.4  # closes
    target[1, 3:, 1] = 0.2  # moves less
    target[2, 3:, 0] = 2.0  # another joint
    target[3, 5, 1] = 2.0  # in the padding
    valid = np.ones((4, T), dtype=bool)
    valid[3, 5] = False
    critical = scores.critical_windows(target, valid, np.array([False, True]), 0.25)
    assert critical.tolist() == [True, False, False, False]
