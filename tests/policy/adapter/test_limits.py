"""The clamp before the motors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sigma.policy.adapter.limits import NonFiniteActionError, limit_action
from sigma.shared.errors import SigmaError

LOWER, UPPER = np.array([-1.0, -2.0]), np.array([1.0, 2.0])
JOINTS = hnp.arrays(np.float64, (2,), elements=st.floats(-1e3, 1e3))


@given(JOINTS, JOINTS, st.floats(1e-3, 10))
def test_a_step_is_never_larger_than_allowed_and_stays_inside_once_inside(action, previous, step):
    limited = limit_action(action, previous, LOWER, UPPER, step)
    assert np.all(np.abs(limited - previous) <= step + 1e-9)
    inside = (previous >= LOWER) & (previous <= UPPER)
    assert np.all((limited[inside] >= LOWER[inside]) & (limited[inside] <= UPPER[inside]))


def test_an_action_inside_both_limits_passes_to_the_bit():
    action = np.array([[0.1, -0.3]], dtype=np.float32)
    limited = limit_action(action, np.zeros((1, 2), np.float32), LOWER, UPPER, 0.5)
    assert limited.dtype == np.float32
    assert limited.tobytes() == action.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stops_with_a_named_error(value):
    with pytest.raises(NonFiniteActionError, match=r"joint index \[1\]"):
        limit_action(np.array([0.0, value]), np.zeros(2), LOWER, UPPER, 1.0)
    with pytest.raises(SigmaError, match="previous position"):
        limit_action(np.zeros(2), np.array([value, 0.0]), LOWER, UPPER, 1.0)


def test_limits_that_leave_no_room_are_refused():
    with pytest.raises(ValueError, match="no room"):
        limit_action(np.zeros(2), np.zeros(2), UPPER, LOWER, 1.0)
    with pytest.raises(ValueError, match="no room"):
        limit_action(np.zeros(2), np.zeros(2), LOWER, UPPER, 0.0)
