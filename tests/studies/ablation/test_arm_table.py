"""Holm's adjustment and the fall of a curve on hand-made numbers."""

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.studies.ablation.arm_table import fall_over_last_part, holm


def test_holm_on_a_textbook_case():
    """p = .01, .04, .03, .005 of four hypotheses: 4·.005, 3·.01, 2·.03, and .04 raised to its predecessor's .06."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def _curve(steps, losses):
    return {"step": np.array(steps), "validation": np.array(losses, dtype=float)}


def test_the_fall_begins_at_four_fifths_and_unmeasured_steps_do_not_count():
    assert fall_over_last_part(_curve([0, 30, 40, 45, 50], [4.0, 3.0, 2.0, np.nan, 1.8])) == pytest.approx(0.1)
    assert fall_over_last_part(_curve([0, 50, 100], [9.0, 5.0, 4.0])) == pytest.approx((5.0 - 4.0) / 5.0)


def test_a_rise_is_negative_and_no_measurement_is_refused():
    assert fall_over_last_part(_curve([0, 80, 100], [3.0, 1.0, 1.2])) == pytest.approx(-0.2)
    with pytest.raises(SigmaError, match="no validation loss"):
        fall_over_last_part(_curve([0, 80], [np.nan, np.nan]))
