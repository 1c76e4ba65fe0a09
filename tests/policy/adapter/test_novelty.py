"""What stands out of a decision, against computations of its own."""

import numpy as np
import pytest

from sigma.policy.adapter.conformal import Ordinary
from sigma.policy.adapter.novelty import AXES, Sight, fit_joints, fit_views, parts, project

V, F, D, S = 2, 6, 3, 2


def _features(random, count):
    """Pictures that vary along two directions of six, with a little noise on the rest."""
    directions = np.random.default_rng(0).normal(size=(2, F))
    return (random.normal(size=(count, V, 2)) * 3) @ directions + random.normal(size=(count, V, F)) * 0.1 + 5.0


def test_a_p_value_is_a_rank_up_to_the_largest_score_and_an_exponential_tail_beyond():
    known = Ordinary(0.5, np.arange(1.0, 10.0))
    found = np.exp(-known.surprise(np.array([-np.inf, 0.0, 1.0, 5.5, 9.0, 9.0 + 0.5, 9.0 + 5.0])))
    tail = 0.1 * np.exp([-1.0, -10.0])
    np.testing.assert_allclose(found, [1.0, 1.0, 1.0, 0.5, 0.2, *tail], rtol=1e-12)
    assert Ordinary.of(np.zeros(5)).tail > 0
    # Of an exponential sample the mean excess above any threshold is its own mean.
    assert Ordinary.of(np.random.default_rng(0).exponential(3.0, 20_000)).tail == pytest.approx(3.0, rel=0.1)


def test_a_pictures_distance_is_mahalanobis_with_one_variance_beyond_its_axes(monkeypatch):
    monkeypatch.setattr("sigma.policy.adapter.novelty.AXES", 2)
    random = np.random.default_rng(1)
    known, new = _features(random, 200), _features(random, 5) + random.normal(size=(5, V, F))
    reference = fit_views(known)
    axes, distance = project(new, reference)
    assert AXES == 32 and axes.shape == (5, V, 2)
    for view in range(V):
        values, directions = np.linalg.eigh(np.cov(known[:, view].T, bias=True))
        values[:-2] = values[:-2].mean()
        inverse = directions @ np.diag(1 / values) @ directions.T
        centred = new[:, view] - known[:, view].mean(axis=0)
        expected = np.sqrt(np.einsum("bf,fg,bg->b", centred, inverse, centred) / F)
        np.testing.assert_allclose(distance[:, view], expected, rtol=1e-9)


def _sight(random, reference, count):
    """Joints that follow from the pictures, the last one from the others alone."""
    axes, distance = project(_features(random, count), reference)
    state = np.stack([axes[:, 0, 0] * 10, axes[:, 1, 1] * 5 + 40, axes[:, 0, 0] * axes[:, 1, 1] * 2], axis=1)
    state += random.normal(size=state.shape) * 0.05
    return Sight(axes, distance, state, random.normal(size=(count, S, D)))


@pytest.fixture(scope="module")
def learnt():
    random = np.random.default_rng(2)
    reference = fit_views(_features(random, 300))
    sight = _sight(random, reference, 300)
    return (
        reference | fit_joints(sight, sight.state + 1.0),
        _sight(random, reference, 40),
        _sight(random, reference, 40),
    )


def _parts(learnt, now=None, before=None, command=None, known=True):
    reference, plain, then = learnt
    now = now or plain
    command = now.state + 1.0 if command is None else command
    return parts(now, before or then, command, np.full(len(now.state), known), reference)


@pytest.mark.parametrize("joint", range(D))
def test_a_joint_that_fits_neither_picture_nor_joints_stands_out_though_its_value_is_ordinary(learnt, joint):
    plain = learnt[1]
    off = plain.state.copy()
    off[:, joint] = np.roll(off[:, joint], 7)
    usual = _parts(learnt)["state"]
    found = _parts(learnt, Sight(plain.axes, plain.distance, off, plain.motion))["state"]
    assert np.median(found[:, joint]) > 3 * np.quantile(usual, 0.95)


def test_a_picture_that_stands_still_while_the_joints_move_stands_out(learnt):
    _, plain, then = learnt
    frozen = then.axes.copy()
    frozen[:, 1] = plain.axes[:, 1]
    usual = _parts(learnt)["change"]
    found = _parts(learnt, before=Sight(frozen, then.distance, then.state, then.motion))["change"]
    np.testing.assert_array_equal(found[:, 0], usual[:, 0])
    assert np.median(found[:, 1]) > 3 * np.quantile(usual, 0.95)


def test_joints_that_are_not_where_the_command_led_stand_out_and_the_usual_lag_does_not(learnt):
    assert _parts(learnt)["tracking"].max() < 1e-9
    off = learnt[1].state + 1.0 + [0.0, 0.0, 5.0]
    tracking = _parts(learnt, command=off)["tracking"]
    assert tracking[:, :2].max() < 1e-9 and tracking[:, 2].min() > 0.5


def test_a_command_that_nothing_tells_counts_for_nothing(learnt):
    found = _parts(learnt, command=np.full_like(learnt[1].state, np.nan))
    assert np.isneginf(found["tracking"]).all() and np.isfinite(found["change"]).all()


def test_an_episodes_first_decision_is_compared_with_nothing(learnt):
    found = _parts(learnt, known=False)
    assert np.isneginf(found["change"]).all() and np.isneginf(found["tracking"]).all()
    assert np.isfinite(found["picture"]).all() and np.isfinite(found["state"]).all()


def test_how_far_a_joint_is_behind_is_judged_by_what_it_was_told():
    random = np.random.default_rng(6)
    reference = fit_views(_features(random, 300))
    sight, told = _sight(random, reference, 300), np.linspace(0, 50, 300)
    # Jaws that hold something stop 13 units before they are closed, and open without a lag.
    state = sight.state.copy()
    state[:, 2] = np.maximum(told, 13) + random.normal(size=300)
    held = Sight(sight.axes, sight.distance, state, sight.motion)
    command = np.column_stack([state[:, :2], told])
    reference |= fit_joints(held, command)

    def tracking(offset: float) -> np.ndarray:
        moved = Sight(held.axes, held.distance, held.state + np.array([0, 0, offset]), held.motion)
        return parts(moved, held, command, np.full(300, True), reference)["tracking"][:, 2]

    assert min(tracking(18).min(), tracking(-18).min()) > 2 * tracking(0).max()
