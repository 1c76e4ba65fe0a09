import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sigma.data.windows.cutting import (
    Protocol,
    action_norm,
    decision_steps,
    filter_reasons,
    is_strided,
    memory_steps,
    motion,
    seconds_to_correction,
    shift_ends,
    targets,
    trace_states,
)


def protocol(horizon=16, chunk_size=16, memory_stride=8, train_stride=4, eval_stride=16, trace=8) -> Protocol:
    return Protocol(horizon, chunk_size, memory_stride, train_stride, eval_stride, trace)


protocols = st.builds(
    protocol,
    horizon=st.integers(1, 20),
    chunk_size=st.integers(1, 30),
    memory_stride=st.integers(1, 9),
    train_stride=st.integers(1, 20),
    eval_stride=st.integers(1, 40),
    trace=st.integers(0, 12),
)
splits = st.sampled_from(["train", "validation", "test"])
# First frames of the 50-episode dataset that the full path uses.
LENGTHS = [303, 266, 230, 183, 215]


@given(st.integers(0, 100), protocols, splits)
def test_windows_never_cross_an_episode(length, cut, split):
    steps = decision_steps(length, cut, split)
    assert ((steps >= 0) & (steps < max(length, 1))).all()
    action = np.arange(length, dtype=np.float32)[:, None]
    if len(steps):
        values, valid = targets(action, steps, cut.chunk_size, np.full(len(action), len(action)))
        wanted = steps[:, None] + np.arange(cut.chunk_size)
        np.testing.assert_array_equal(valid, wanted < length)
        np.testing.assert_array_equal(values[..., 0], np.minimum(wanted, length - 1))
        assert valid[:, 0].all()


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 20))
def test_targets_end_where_someone_else_takes_over(marks, chunk_size):
    person = np.array(marks)
    action, steps = np.arange(len(person), dtype=np.float32)[:, None], np.arange(len(person))
    values, valid = targets(action, steps, chunk_size, shift_ends(person))
    waits = seconds_to_correction(person, 10)
    for step in steps:
        mine = 0
        while step + mine < len(person) and person[step + mine] == person[step]:
            mine += 1
        assert valid[step].sum() == min(mine, chunk_size) and valid[step, 0]
        assert values[step, :, 0].tolist() == [step + min(place, mine - 1) for place in range(chunk_size)]
        later = [other - step for other in steps[step:] if person[other]]
        assert waits[step] == (np.float32(later[0] / 10) if later else np.inf)


@given(st.integers(0, 100), st.integers(1, 40))
def test_memory_reads_an_episode_on_its_stride_from_the_first_step_on_and_stops_before_the_decision(step, stride):
    found = memory_steps(step, stride)
    assert found.dtype == np.int64
    assert found.tolist() == [earlier for earlier in range(step) if earlier % stride == 0]


def by_loop(state: np.ndarray, steps: np.ndarray, trace: int) -> np.ndarray:
    """The trace of each window, written out step by step."""
    rows = np.zeros((len(steps), trace, state.shape[1]), dtype=np.float32)
    for window, step in enumerate(steps):
        for place in range(trace):
            source = int(step) - trace + place
            rows[window, place] = state[source] if source >= 0 else state[0]
    return rows


@given(st.integers(1, 60), protocols, splits)
def test_the_trace_is_the_recorded_states_just_before_the_decision(length, cut, split):
    state = np.random.default_rng(length).normal(size=(length, 3)).astype(np.float32)
    steps = decision_steps(length, cut, split)
    found = trace_states(state, steps, cut.trace)
    assert found.dtype == np.float32 and found.shape == (len(steps), cut.trace, 3)
    np.testing.assert_array_equal(found, by_loop(state, steps, cut.trace))


@given(st.integers(1, 60), protocols, splits, st.data())
def test_the_trace_of_a_decision_ignores_every_later_state(length, cut, split, data):
    state = np.arange(length * 2, dtype=np.float32).reshape(length, 2)
    steps = decision_steps(length, cut, split)
    after = data.draw(st.integers(0, length))
    later = state.copy()
    later[after + 1 :] = np.nan
    early = steps[steps <= after]
    np.testing.assert_array_equal(trace_states(later, early, cut.trace), trace_states(state, early, cut.trace))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), protocols, splits)
def test_the_trace_never_crosses_an_episode(lengths, cut, split):
    for episode, length in enumerate(lengths):
        state = np.stack([np.full(length, episode), np.arange(length)], axis=1).astype(np.float32)
        steps = decision_steps(length, cut, split)
        found = trace_states(state, steps, cut.trace)
        assert (found[..., 0] == episode).all()
        assert (found[..., 1] <= np.maximum(steps - 1, 0)[:, None]).all()
        assert (np.diff(found[..., 1], axis=1) >= 0).all()


def test_before_the_episode_began_its_first_state_stands():
    state = np.array([[5.0], [6], [7], [8]], dtype=np.float32)
    found = trace_states(state, np.array([0, 1, 3]), 3)
    np.testing.assert_array_equal(found[..., 0], [[5, 5, 5], [5, 5, 5], [5, 6, 7]])


def test_a_trace_of_no_steps_is_empty():
    assert trace_states(np.zeros((4, 2), dtype=np.float32), np.array([0, 3]), 0).shape == (2, 0, 2)


def test_the_strided_windows_of_held_out_episodes_follow_the_count_rule_of_the_source():
    counts = [is_strided(decision_steps(length, protocol(), "test"), length, 16).sum() for length in LENGTHS]
    assert counts == [18, 16, 14, 11, 13]


@given(st.integers(0, 100), st.integers(1, 30))
def test_every_step_of_a_held_out_episode_is_scored_once(length, horizon):
    cut = protocol(horizon=horizon, eval_stride=horizon)
    steps = decision_steps(length, cut, "test")
    _, valid = targets(np.zeros((length, 1)), steps, horizon, np.full(length, length)) if length else (None, steps)
    assert valid.sum() == length


@given(st.integers(0, 200), st.sampled_from([1, 2, 4, 8, 16]))
def test_strided_windows_of_train_episodes_follow_the_same_rule(length, stride):
    steps = decision_steps(length, protocol(train_stride=stride), "train")
    assert is_strided(steps, length, 16).sum() == length // 16


def test_train_windows_reach_the_end_of_the_episode():
    np.testing.assert_array_equal(decision_steps(18, protocol(), "train"), [0, 4, 8, 12, 16])


def test_action_norm_is_the_mean_over_the_part_within_the_episode():
    action = np.array([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]], dtype=np.float32)
    np.testing.assert_allclose(action_norm(action, np.array([0, 2]), 2), [3.0, 10.0])


def test_motion_is_zero_while_nothing_moves_far_from_the_origin():
    still = np.full((20, 3), 80.0, dtype=np.float32)
    steps = np.array([0, 4])
    assert (action_norm(still, steps, 16) > 100).all()
    np.testing.assert_array_equal(motion(still, still, np.ones(3), steps, 16), 0)


def test_motion_counts_offset_and_change_in_normalised_units():
    state = np.zeros((4, 2), dtype=np.float32)
    action = np.array([[2.0, 0], [2, 0], [2, 8], [2, 8]], dtype=np.float32)
    value = motion(state, action, np.array([2.0, 4.0]), np.array([0]), 4)
    offsets = np.mean([1, 1, np.sqrt(5), np.sqrt(5)])
    changes = np.mean([0, 0, 2, 0])
    np.testing.assert_allclose(value, [(offsets + changes) / 2])


def test_motion_ignores_a_joint_without_spread():
    state = np.zeros((3, 2), dtype=np.float32)
    action = np.array([[0.0, 9], [0, 9], [0, 9]], dtype=np.float32)
    np.testing.assert_array_equal(motion(state, action, np.array([1.0, np.inf]), np.array([0]), 3), 0)


def test_filter_names_the_first_reason():
    reasons = filter_reasons(np.array([0.5, 2, 2, 1]), np.array([0.0, 0.0, 0.2, 0.1]), 1.0, 0.1)
    assert reasons == ["min_action_norm", "min_motion", "", ""]
