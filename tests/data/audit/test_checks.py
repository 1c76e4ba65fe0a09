"""The parts that checks are made of, each against a slow computation of the same thing or a property."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma.data.audit.checks.cameras import likeness
from sigma.data.audit.checks.joints import lead_of_action, runs
from sigma.data.audit.thumbnails import GRID, CameraTrace, thumbnail
from sigma.data.audit.whole_dataset import find_repeats

SPAN = np.ones(6)


def wander(seed: int, frames: int) -> np.ndarray:
    """A smooth random path of three joints, float [frames, 3], of about one unit of range."""
    steps = np.random.default_rng(seed).normal(size=(frames + 8, 3))
    smooth = np.stack([np.convolve(column, np.ones(9) / 9, mode="valid") for column in steps.T], axis=1)
    path = np.cumsum(smooth, axis=0)
    return path / np.ptp(path, axis=0).max()


@given(st.lists(st.booleans(), max_size=40))
def test_runs_are_the_stretches_of_true_flags(flags):
    found = list(runs(np.array(flags, dtype=bool)))
    assert [index for first, last in found for index in range(first, last + 1)] == list(np.flatnonzero(flags))
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(found))


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(-8, 8))
def test_the_lead_is_the_shift_that_was_made(seed, shift):
    path = wander(seed, 80)
    state, action = path[10:70], path[10 + shift : 70 + shift]
    assert lead_of_action(state, action, np.ones(3), reach=10) == shift


def test_there_is_no_lead_where_nothing_moves_or_nothing_agrees():
    path = wander(0, 60)
    assert lead_of_action(path, np.zeros_like(path), np.ones(3), reach=10) is None
    assert lead_of_action(path, wander(1, 60), np.ones(3), reach=10) is None
    assert lead_of_action(path[:15], path[:15], np.ones(3), reach=10) is None
    assert lead_of_action(np.where(path > 0.4, np.nan, path), path, np.ones(3), reach=10) in (0, None)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_a_copy_is_found_whatever_its_order_and_however_short(seed, kept):
    random = np.random.default_rng(seed)
    state, action = random.uniform(0, 1, (2, 40, 3))
    order = random.permutation(40)[:kept]
    frames = (np.concatenate([values, values[order]]) for values in (state, action))
    episode = np.repeat([4, 9], [40, kept])
    assert find_repeats(*frames, SPAN, episode) == {9: (1.0, 4)}


def test_other_frames_repeat_nothing_and_the_earlier_episode_with_most_is_named():
    random = np.random.default_rng(0)
    first, second = random.uniform(0, 1, (2, 20, 3))
    assert find_repeats(*np.zeros((2, 0, 3)), SPAN, np.zeros(0, np.int64)) == {}
    state = np.concatenate([first, second, second[:15], first[:5]])
    episode = np.repeat([0, 1, 2], 20)
    assert find_repeats(state, state, SPAN, episode) == {2: (0.75, 1)}


@pytest.mark.parametrize("size", [(48, 64), (16, 16), (10, 7), (96, 96), (480, 640), (97, 193)])
def test_a_thumbnail_is_the_mean_of_each_block(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    every = max(min(size) // 96, 1)
    pixels = image[::every, ::every].astype(np.float64).mean(axis=2)
    for axis in (0, 1):
        if pixels.shape[axis] < GRID:
            pixels = np.repeat(pixels, -(-GRID // pixels.shape[axis]), axis=axis)
    edges = [np.append(np.linspace(0, side, GRID, endpoint=False).astype(int), side) for side in pixels.shape]
    expected = [
        [pixels[edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]].mean() for j in range(GRID)]
        for i in range(GRID)
    ]
    np.testing.assert_allclose(thumbnail(image), expected, atol=1e-3)


def test_a_signature_has_one_thumbnail_a_second():
    thumbnails = np.arange(45, dtype=np.float32)[:, None, None] * np.ones((GRID, GRID), np.float32)
    trace = CameraTrace(np.arange(45), thumbnails, np.zeros(0, np.int64), "")
    assert trace.signature(10)[:, 0, 0].tolist() == [0, 10, 20, 30, 40]
    assert len(CameraTrace(np.zeros(0), thumbnails[:0], np.zeros(0), "").signature(10)) == 0


def test_likeness_falls_with_the_most_different_block_and_is_zero_without_frames():
    frames = np.full((3, GRID, GRID), 100, np.uint8)
    other = frames.copy()
    other[:, 2, 3] += 5
    assert likeness(frames, frames) == 1.0
    assert likeness(frames, other) == pytest.approx(0.5)
    assert likeness(frames, other[:1]) == pytest.approx(0.5)
    assert likeness(frames, frames + np.uint8(20)) == 0.0
    assert likeness(frames, frames[:0]) == 0.0
