"""Pictures for any number of joints, with the same bytes every time."""

from xml.etree import ElementTree

import numpy as np
import pytest

from sigma.report import figures


@pytest.mark.parametrize("joints", [1, 2, 3, 7])
def test_trajectories_are_drawn_for_any_number_of_joints(joints):
    values = np.random.default_rng(0).normal(size=(6, joints))
    drawn = [
        figures.trajectories(
            np.arange(6.0), values, {"base": values, "sigma": values}, ["joint"] * joints, np.arange(2)
        )
        for _ in range(2)
    ]
    assert ElementTree.fromstring(drawn[0]).tag.endswith("svg")
    assert drawn[0] == drawn[1]


def test_errors_of_zero_can_be_drawn():
    zero = {name: [0.0, 0.0] for name in ("base", "sigma")}
    assert "<svg" in figures.error_by_step(zero, 10.0)
    assert "<svg" in figures.grouped_bars(["a", "b"], zero, "error")


def test_a_label_is_one_line_of_bounded_length_and_no_mathematics():
    assert figures.plain("a\n b $x$") == r"a b \$x\$"
    assert len(figures.plain("long " * 50)) == 48
