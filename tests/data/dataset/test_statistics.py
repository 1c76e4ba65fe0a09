import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sigma.data.dataset.statistics import feature_statistics, refuse_constant_joints, spread
from sigma.shared.errors import SigmaError


@given(st.lists(st.floats(-180, 180, width=32), min_size=2, max_size=80))
def test_quantiles_interpolate_between_order_statistics(values):
    column = np.array(values, dtype=np.float32)
    statistics = feature_statistics(np.stack([column, -column], axis=1))
    ordered = np.sort(column.astype(np.float64))
    for name, share in (("q01", 0.01), ("q99", 0.99)):
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        expected = ordered[below] + (place - below) * (ordered[above] - ordered[below])
        assert statistics[name][0] == pytest.approx(expected, abs=1e-9)
    assert statistics["q01"][1] == pytest.approx(-statistics["q99"][0], abs=1e-9)


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 60), st.integers(1, 4)),
        elements=st.floats(-180, 180, width=32),
    )
)
def test_statistics_are_those_of_each_column_summed_exactly(values):
    statistics = feature_statistics(values)
    for joint, column in enumerate(values.astype(np.float64).T):
        mean = math.fsum(column) / len(column)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in column) / len(column))
        assert statistics["mean"][joint] == pytest.approx(mean, abs=1e-10)
        assert statistics["std"][joint] == pytest.approx(deviation, abs=1e-9)
        assert statistics["min"][joint] == column.min() and statistics["max"][joint] == column.max()
        quantiles = [np.percentile(column, share) for share in (1, 99)]
        assert [statistics[name][joint] for name in ("q01", "q99")] == pytest.approx(quantiles, abs=1e-12)


def test_moments_are_those_of_the_columns():
    statistics = feature_statistics(np.array([[1.0, 10], [3.0, 30]], dtype=np.float32))
    assert statistics["mean"] == [2.0, 20.0]
    assert statistics["std"] == [1.0, 10.0]
    assert (statistics["min"], statistics["max"]) == ([1.0, 10.0], [3.0, 30.0])


def test_constant_joint_is_refused_by_name_unless_excluded():
    statistics = {"action": feature_statistics(np.array([[0.0, 5], [1, 5], [2, 5]], dtype=np.float32))}
    with pytest.raises(SigmaError, match=r"action: joint 'grip' has equal .*window\.exclude_joints"):
        refuse_constant_joints(statistics, ("arm", "grip"), ())
    refuse_constant_joints(statistics, ("arm", "grip"), ("grip",))


def test_spread_of_a_constant_joint_is_infinite():
    statistics = feature_statistics(np.array([[0.0, 5]] * 50 + [[4.0, 5]] * 50, dtype=np.float32))
    np.testing.assert_array_equal(spread(statistics), [2.0, np.inf])
