"""Windows of whole datasets: any lengths, strides and horizons, against a count that is written out step by step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sigma.data.dataset.dataset import Dataset, Episode, Rows
from sigma.data.windows.candidates import (
    Filter,
    candidate_windows,
    count_windows,
    read_usable,
    stored_windows,
    train_statistics,
)
from sigma.data.windows.cutting import Protocol
from sigma.data.windows.packing import observed_steps
from sigma.data.windows.split import SPLITS
from sigma.shared.errors import SigmaError
from tests.data.windows.test_cutting import protocols

JOINTS = ("shoulder", "gripper")


class Recording(Dataset):
    """A dataset whose rows are made when they are read; ``broken`` alters those of episode 0."""

    broken = staticmethod(lambda rows: rows)

    def read(self, episode: Episode) -> Rows:
        steps = np.arange(episode.length)
        angle = 0.3 * steps[:, None] + np.array([0.0, 1.0]) + episode.index
        # The action carries where it came from: episode and step.
        action = np.stack([np.full(len(steps), 1000.0 * episode.index), steps], axis=1) + 0.1 * np.sin(angle)
        task = np.full(len(steps), episode.index % 2)
        rows = Rows(np.sin(angle).astype(np.float32), action.astype(np.float32), steps / 10, steps, task, steps < 0)
        return rows if episode.index else self.broken(rows)

    def read_each(self, episodes):
        return map(self.read, episodes)


def recording(lengths) -> Recording:
    episodes = tuple(Episode(index, length, "table.parquet", {}) for index, length in enumerate(lengths))
    return Recording(Path("recorded"), 10, None, JOINTS, {}, ("push", "lift"), episodes, {})


@st.composite
def datasets(draw):
    """Lengths of four or more episodes and their split, each split with an episode and validation with two."""
    lengths = draw(st.lists(st.integers(1, 60), min_size=4, max_size=8))
    order = draw(st.permutations(range(len(lengths))))
    rest = draw(st.lists(st.sampled_from(SPLITS), min_size=len(lengths) - 4, max_size=len(lengths) - 4))
    splits = {name: [] for name in SPLITS}
    for episode, name in zip(order, (*SPLITS, "validation", *rest), strict=True):
        splits[name].append(episode)
    return lengths, {name: sorted(part) for name, part in splits.items()}


def cut_by_hand(length: int, cut, split: str) -> list[int]:
    """Decision steps, by looking at every step."""
    stride = cut.train_stride if split == "train" else cut.eval_stride
    return [step for step in range(length) if step % stride == 0]


def segment(dataset, splits, cut, limits=Filter(0.0, 0.0)):  # noqa: B008
    return candidate_windows(dataset, splits, cut, limits, train_statistics(dataset, splits["train"]))


@given(datasets(), protocols)
def test_every_frame_is_in_as_many_windows_as_it_should_and_in_none_of_another_episode(drawn, cut):
    lengths, splits = drawn
    dataset, split_of = recording(lengths), {one: name for name in SPLITS for one in splits[name]}
    by_hand = {one: cut_by_hand(length, cut, split_of[one]) for one, length in enumerate(lengths)}
    assume(any(by_hand[one][1:] for one in splits["train"]))
    windows = segment(dataset, splits, cut)
    found = list(zip(windows["episode"], windows["step"], strict=True))
    assert found == [(one, step) for one in sorted(by_hand) for step in by_hand[one]]
    assert [split_of[one] for one in windows["episode"]] == list(windows["split"])
    for episode, length in enumerate(lengths):
        steps = windows["step"][windows["episode"] == episode]
        for frame in range(length):
            scored = sum(step <= frame < step + cut.horizon for step in steps)
            stride = cut.train_stride if split_of[episode] == "train" else cut.eval_stride
            most = -(-cut.horizon // stride)
            assert scored <= most
            assert scored == sum(first + cut.horizon > frame for first in range(0, frame + 1, stride))
        observed = observed_steps(steps, cut)
        assert len(set(observed)) == len(observed) and all(0 <= one < length for one in observed)
        read = {frame for frame in range(max(steps, default=0)) if frame % cut.memory_stride == 0}
        assert set(observed) == set(steps) | read


@given(datasets(), protocols, st.floats(0, 3), st.floats(0, 1))
def test_the_filter_removes_train_windows_alone_and_each_is_counted_once(drawn, cut, norm, motion):
    lengths, splits = drawn
    try:
        windows = segment(recording(lengths), splits, cut, Filter(norm, motion))
    except SigmaError as error:
        assert any(reason in str(error) for reason in ("no training window is left", "the first of its episode"))
        return
    stored = stored_windows(windows)
    assert stored[windows["split"] != "train"].all()
    np.testing.assert_array_equal(stored[windows["split"] == "train"], windows["kept"][windows["split"] == "train"])
    for name, counts in count_windows(windows).items():
        of_split = windows["split"] == name
        assert counts["candidates"] == of_split.sum()
        assert counts["kept"] + counts["min_action_norm"] + counts["min_motion"] == counts["candidates"]
        low = windows["action_norm"][of_split] < norm
        assert counts["min_action_norm"] == low.sum()
        assert counts["min_motion"] == (~low & (windows["motion"][of_split] < motion)).sum()


def test_training_windows_before_which_memory_never_reads_are_refused():
    cut = Protocol(horizon=8, chunk_size=8, memory_stride=4, train_stride=8, eval_stride=8, trace=0)
    splits = {"train": [0, 1], "validation": [2, 3], "test": [4]}
    segment(recording([9, 8, 8, 8, 8]), splits, cut)
    with pytest.raises(SigmaError, match=r"every train decision is the first .* window\.train_stride \(8\) frames"):
        segment(recording([8, 8, 8, 8, 8]), splits, cut)


def thinned(rows: Rows, kept) -> Rows:
    return Rows(*(values[kept] for values in vars(rows).values()))


@given(st.integers(2, 40), st.data())
def test_missing_repeated_and_swapped_frames_are_refused_by_episode(length, data):
    dataset = recording((length, length))
    kept = data.draw(
        st.one_of(
            st.lists(st.integers(0, length - 1), max_size=length, unique=True).map(sorted),
            st.permutations(range(length)),
            st.lists(st.integers(0, length - 1), min_size=length, max_size=length + 3),
        )
    )
    assume(list(kept) != list(range(length)))
    dataset.__dict__["broken"] = lambda rows: thinned(rows, np.array(kept, dtype=int))
    with pytest.raises(SigmaError, match=r"recorded/table\.parquet: episode 0: .*list it in params\.yaml"):
        list(read_usable(dataset, [0]))
    ((index, rows),) = read_usable(dataset, [1])
    assert index == 1 and len(rows.state) == length


@given(st.integers(1, 40), st.data(), st.sampled_from([np.nan, np.inf, -np.inf]), st.sampled_from(["state", "action"]))
def test_one_value_that_is_not_finite_is_refused_by_episode(length, data, value, name):
    row, joint = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 1))

    def broken(rows: Rows) -> Rows:
        values = getattr(rows, name).copy()
        values[row, joint] = value
        return replace(rows, **{name: values})

    dataset = recording((length,))
    dataset.__dict__["broken"] = broken
    with pytest.raises(SigmaError, match="episode 0: non-finite state or action"):
        list(read_usable(dataset, [0]))


def test_the_speed_of_the_commands_leaves_out_a_dropped_frame_and_the_way_between_episodes(monkeypatch):
    def dropped(rows):
        rows.action[700:, 1] += 500.0
        return rows

    monkeypatch.setattr(Recording, "broken", staticmethod(dropped))
    statistics = train_statistics(recording((1500, 900, 20)), [0, 1])
    shoulder, gripper = statistics["action"]["step"]
    assert 0.029 < shoulder < 0.031 and 1.029 < gripper < 1.031  # 0.1 sin(0.3 steps), and that plus a unit a step
    assert "step" not in statistics["observation.state"]
