"""Batches are a function of seed and step."""

import numpy as np
import pytest

from sigma.training.sampler import WindowSampler


@pytest.mark.parametrize(("windows", "batch"), [(10, 5), (10, 4), (7, 3), (3, 8), (1, 4)])
def test_every_window_comes_once_an_epoch(windows, batch):
    sampler = WindowSampler(windows, batch, seed=0)
    steps = 3 * windows
    stream = np.concatenate([sampler.rows(step) for step in range(steps)])
    assert all(len(sampler.rows(step)) == batch for step in range(steps))
    for epoch in range(len(stream) // windows):
        assert sorted(stream[epoch * windows : (epoch + 1) * windows]) == list(range(windows))


def test_a_step_needs_no_memory_of_earlier_ones_and_depends_on_the_seed():
    one, other = WindowSampler(40, 8, seed=0), WindowSampler(40, 8, seed=1)
    backwards = {step: one.rows(step) for step in reversed(range(12))}
    again = WindowSampler(40, 8, seed=0)
    assert all((again.rows(step) == rows).all() for step, rows in backwards.items())
    assert any((other.rows(step) != rows).any() for step, rows in backwards.items())
    assert (backwards[0] != backwards[5]).any(), "the second epoch has its own order"


def test_accumulation_cuts_the_same_stream():
    large, small = WindowSampler(40, 8, seed=0), WindowSampler(40, 4, seed=0)
    for step in range(10):
        np.testing.assert_array_equal(
            large.rows(step), np.concatenate([small.rows(2 * step), small.rows(2 * step + 1)])
        )


def test_no_window_is_refused():
    with pytest.raises(ValueError, match="no windows"):
        WindowSampler(0, 4, seed=0)
