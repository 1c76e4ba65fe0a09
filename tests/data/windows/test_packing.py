import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sigma.compute.workers import Workers
from sigma.data.dataset.dataset import ACTION, STATE, Dataset, Rows, open_dataset
from sigma.data.dataset.video import decode
from sigma.data.shards import Shards
from sigma.data.windows.candidates import (
    Filter,
    candidate_windows,
    count_windows,
    first_tasks,
    read_usable,
    train_statistics,
)
from sigma.data.windows.cutting import Protocol
from sigma.data.windows.packing import StoredCameras, group_episodes, write_shards
from sigma.shared.errors import SigmaError
from sigma.shared.resize import to_resolution
from tests.datasets import CAMERAS, JOINTS, camera_image, joint_positions, write_dataset

PROTOCOL = Protocol(horizon=16, chunk_size=20, memory_stride=8, train_stride=4, eval_stride=16, trace=6)
SPLITS = {"train": [0, 2, 3, 5], "validation": [1, 6], "test": [4, 7]}
VIEW = StoredCameras((CAMERAS[1], CAMERAS[0]), 32)
KEEP_ALL = Filter(0.0, 0.0)
ONE = Workers(1)


def pack(folder, dataset, limits=KEEP_ALL, budget=2**18, workers=ONE, view=VIEW, protocol=PROTOCOL):
    statistics = train_statistics(dataset, SPLITS["train"])
    windows = candidate_windows(dataset, SPLITS, protocol, limits, statistics)
    meta = {
        **{name: getattr(protocol, name) for name in ("horizon", "chunk_size", "memory_stride", "trace")},
        "chunk": protocol.horizon,
        "fps": dataset.fps,
        "cameras": list(view.cameras),
        "resolution": view.resolution,
        "joint_names": list(dataset.joint_names),
        "exclude_joints": [],
        "critical_joints": [],
        "tasks": list(dataset.tasks),
        "statistics": statistics,
        "dataset": {"source": "small", "revision": None, "digest": "0" * 64, "further": []},
    }
    write_shards(folder, dataset, view, protocol, windows, meta, budget, workers)
    return Shards.open(folder), windows


@pytest.fixture(scope="module")
def packed(dataset, tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packing") / "shards", dataset)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100))
def test_shards_keep_the_order_and_the_budget(sizes, budget):
    groups = group_episodes(dict(enumerate(sizes)), budget)
    assert [episode for group in groups for episode in group] == list(range(len(sizes)))
    for group in groups:
        assert group and sum(sizes[episode] for episode in group) <= budget + max(sizes)
    assert len(groups) <= -(-sum(sizes) // budget)


def test_a_frame_is_stored_once_whether_a_decision_or_memory_sees_it(packed):
    shards, _ = packed
    frames = list(zip(shards.frame_episode.tolist(), shards.frame_step.tolist(), strict=True))
    assert len(set(frames)) == len(frames)
    decisions = set(zip(shards.window_episode.tolist(), shards.window_step.tolist(), strict=True))
    last = {episode: max(step for one, step in decisions if one == episode) for episode, _ in decisions}
    read = {(episode, step) for episode, end in last.items() for step in range(0, end, 8)}
    assert set(frames) == decisions | read
    assert decisions & read and read - decisions


def test_a_window_sees_its_own_frame(packed):
    shards, _ = packed
    assert len(shards.window_step) > 40
    np.testing.assert_array_equal(shards.frame_step[shards.window_frame], shards.window_step)
    np.testing.assert_array_equal(shards.frame_episode[shards.window_frame], shards.window_episode)


def assert_memory_is_whole(shards):
    """What memory reads before each window is every eighth frame of its episode, from the first on."""
    frames, reads = shards.memory_frames(), shards.memory_reads(np.arange(len(shards.window_step)))
    for episode, step, count in zip(shards.window_episode, shards.window_step, reads, strict=True):
        read = frames[int(episode)][:count]
        assert shards.frame_step[read].tolist() == list(range(0, step, 8))
        assert set(shards.frame_episode[read]) <= {episode}


def test_memory_has_every_frame_before_a_decision(packed):
    assert_memory_is_whole(packed[0])


def test_an_episode_lies_in_one_shard(packed):
    shards, _ = packed
    table = pd.read_parquet(shards.folder / "windows.parquet")
    assert table["shard"].nunique() == 2
    assert (table.groupby("episode")["shard"].nunique() == 1).all()


def test_images_are_the_decoded_frames_in_the_order_of_the_view(packed, dataset):
    shards, _ = packed
    frame = int(np.flatnonzero((shards.frame_episode == 5) & (shards.frame_step == 20))[0])
    for position, camera in enumerate(VIEW.cameras):
        ((_, image),) = decode(dataset, dataset.episodes[5], camera, [20])
        expected = to_resolution(torch.from_numpy(image).permute(2, 0, 1), 32)
        assert torch.equal(shards.images(np.array([frame]))[0, position], expected)
        clean = to_resolution(torch.from_numpy(camera_image(5, 20, CAMERAS.index(camera), 48, 64)).permute(2, 0, 1), 32)
        assert (expected.float() - clean.float()).abs().mean() < 4


def test_states_and_targets_are_the_recorded_ones(packed):
    shards, _ = packed
    for frame in range(0, len(shards.frame_step), 7):
        expected = joint_positions(int(shards.frame_episode[frame]), int(shards.frame_step[frame]))
        np.testing.assert_array_equal(shards.frame_state[frame], expected)
    lengths = [40, 33, 52, 36, 48, 35, 44, 38]
    for window in range(0, len(shards.window_step), 5):
        episode, step = int(shards.window_episode[window]), int(shards.window_step[window])
        last = lengths[episode] - 1
        steps = [min(step + offset, last) for offset in range(20)]
        expected = np.stack([joint_positions(episode, item + 1) for item in steps])
        np.testing.assert_array_equal(shards.window_action[window], expected)
        assert list(shards.window_valid[window]) == [step + offset <= last for offset in range(20)]
        assert shards.tasks[shards.window_task[window]] == ("push the cube", "lift the cube")[episode % 2]


def test_the_trace_is_the_recorded_joint_states_before_each_frame(packed):
    shards, _ = packed
    assert shards.frame_trace.shape == (len(shards.frame_step), 6, len(JOINTS))
    assert shards.frame_trace.dtype == np.float32
    for frame, trace in enumerate(shards.frame_trace):
        episode, step = int(shards.frame_episode[frame]), int(shards.frame_step[frame])
        for place, past in enumerate(range(step - 6, step)):
            np.testing.assert_array_equal(trace[place], joint_positions(episode, max(past, 0)))


def test_no_trace_can_be_kept(packed, dataset, tmp_path):
    shards, _ = packed
    other, _ = pack(tmp_path / "none", dataset, protocol=replace(PROTOCOL, trace=0))
    assert other.frame_trace.shape == (len(shards.frame_step), 0, len(JOINTS))
    np.testing.assert_array_equal(other.window_action, shards.window_action)


def test_table_and_shards_agree(packed):
    shards, windows = packed
    table = pd.read_parquet(shards.folder / "windows.parquet")
    assert list(table["window"]) == list(range(len(table)))
    assert list(table["episode"]) == list(shards.window_episode)
    assert list(table["step"]) == list(shards.window_step)
    assert list(table["split"]) == list(shards.window_split) == list(windows["split"])
    for shard, rows in table.groupby("shard")["row"]:
        assert list(rows) == list(range(shards.meta["shards"][shard]["windows"]))


def test_held_out_episodes_give_windows_to_their_last_step(packed):
    shards, _ = packed
    for split, total in (("validation", 3 + 3), ("test", 3 + 3)):
        assert (shards.window_split == split).sum() == total
    assert set(shards.window_episode[shards.window_split == "test"]) == {4, 7}


@pytest.mark.slow
def test_a_cluster_writes_the_same_bytes(packed, dataset, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        pack(tmp_path / "another", dataset, workers=Workers(backend="dask", address=cluster.scheduler_address))
    assert digests(tmp_path / "another") == digests(packed[0].folder)


def test_filter_takes_training_windows_only(dataset, tmp_path, packed):
    _, everything = packed
    limits = Filter(float(np.median(everything["action_norm"])), 0.0)
    shards, windows = pack(tmp_path / "filtered", dataset, limits)
    counts = count_windows(windows)
    assert counts["train"]["min_action_norm"] > 5 and counts["test"]["min_action_norm"] > 0
    assert (shards.window_split == "train").sum() == counts["train"]["kept"]
    assert (shards.window_split == "test").sum() == counts["test"]["candidates"]
    assert (~shards.window_kept).sum() == counts["test"]["min_action_norm"] + counts["validation"]["min_action_norm"]
    table = pd.read_parquet(tmp_path / "filtered" / "windows.parquet")
    assert set(table[table["window"] < 0]["reason"]) == {"min_action_norm"}
    assert len(table) == len(everything["step"])
    # The frames of windows that were left out stay where memory reads them on the way to a later one.
    assert_memory_is_whole(shards)
    left_out = everything["step"][(windows["split"] == "train") & ~windows["kept"]]
    assert (left_out % 8 == 0).any()


def test_filter_that_leaves_nothing_is_refused(dataset, tmp_path):
    with pytest.raises(SigmaError, match=r"window\.min_motion: no training window is left"):
        pack(tmp_path / "none", dataset, Filter(0.0, 1e6))


def test_statistics_come_from_all_frames_of_train_episodes_alone(dataset):
    frames = [(episode, step) for episode in SPLITS["train"] for step in range(dataset.episodes[episode].length)]
    state = np.stack([joint_positions(*frame) for frame in frames]).astype(np.float64)
    action = np.stack([joint_positions(episode, step + 1) for episode, step in frames]).astype(np.float64)
    statistics = train_statistics(dataset, SPLITS["train"])
    for feature, values in ((STATE, state), (ACTION, action)):
        np.testing.assert_array_equal(statistics[feature]["q01"], np.quantile(values, 0.01, axis=0))
        np.testing.assert_array_equal(statistics[feature]["q99"], np.quantile(values, 0.99, axis=0))
        np.testing.assert_allclose(statistics[feature]["std"], values.std(axis=0))
    assert statistics != train_statistics(dataset, [0, 1, 2, 3])


class PerturbedAfter(Dataset):
    """A dataset whose recorded states and actions differ after a step."""

    after = 20

    def read_each(self, episodes) -> Iterator[Rows]:
        return map(self._perturbed, super().read_each(episodes))

    def _perturbed(self, rows: Rows) -> Rows:
        later = rows.frame_index > self.after
        state, action = rows.state.copy(), rows.action.copy()
        state[later] += 7
        action[later] -= 7
        return replace(rows, state=state, action=action)


def test_later_states_and_actions_change_no_observation(packed, dataset, tmp_path):
    shards, _ = packed
    fields = {name: getattr(dataset, name) for name in dataset.__dataclass_fields__}
    other, _ = pack(tmp_path / "perturbed", PerturbedAfter(**fields))
    early = np.flatnonzero(shards.window_step <= PerturbedAfter.after)
    np.testing.assert_array_equal(shards.window_frame, other.window_frame)
    frames = np.flatnonzero(shards.frame_step <= PerturbedAfter.after)
    np.testing.assert_array_equal(shards.frame_state[frames], other.frame_state[frames])
    np.testing.assert_array_equal(shards.frame_trace[frames], other.frame_trace[frames])
    assert not np.array_equal(shards.frame_trace, other.frame_trace)
    assert not np.array_equal(shards.frame_state, other.frame_state)
    assert not np.array_equal(shards.window_action[early], other.window_action[early])


def test_a_failed_run_leaves_nothing_behind(dataset, tmp_path, monkeypatch):
    class Lossy(Dataset):
        def read_each(self, episodes):
            chosen = list(episodes)
            for episode, rows in zip(chosen, super().read_each(chosen), strict=True):
                yield replace(rows, task=rows.task + (0 if episode.index < 7 else 9))

    fields = {name: getattr(dataset, name) for name in dataset.__dataclass_fields__}
    with pytest.raises(SigmaError, match=r"episode 7: a task that meta/tasks\.parquet does not list"):
        pack(tmp_path / "shards", Lossy(**fields))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.processes)])
def test_a_missing_frame_is_named_and_leaves_nothing_behind(tmp_path, workers):
    folder = write_dataset(tmp_path / "short", lengths=[40] * 8)
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["fps"] = 15  # frames then lie at every third step and between steps
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(SigmaError, match=r"observation\.images\.wrist: episode \d has no frame for step"):
        pack(tmp_path / "out" / "shards", open_dataset(folder), workers=Workers(workers))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: {"state": rows.state[:-1]}, "32 rows, 33 declared"),
        (lambda rows: {"frame_index": rows.frame_index[::-1]}, "frame_index does not count"),
        (lambda rows: {"action": rows.action * np.nan}, "non-finite state or action"),
        (lambda rows: {"task": rows.task * 0 - 1}, "a task that"),
    ],
)
def test_rows_that_cannot_be_cut_are_refused(dataset, change, words):
    class Faulty(Dataset):
        def read_each(self, episodes):
            return (replace(rows, **change(rows)) for rows in super().read_each(episodes))

    fields = {name: getattr(dataset, name) for name in dataset.__dataclass_fields__}
    with pytest.raises(SigmaError, match=f"episode 1: {words}"):
        list(read_usable(Faulty(**fields), [1]))


def test_tasks_are_those_the_episodes_begin_with(dataset):
    assert first_tasks(dataset, [1, 4]) == {1: 1, 4: 0}
    assert dataset.joint_names == JOINTS
