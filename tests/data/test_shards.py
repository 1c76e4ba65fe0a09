import json
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma.data.shards import FORMAT_VERSION, TENSORS, Shards, shard_name, write_index, write_shard
from sigma.shared.errors import SigmaError

V, S, D, T, L = 2, 8, 3, 5, 4


def shard_tensors(index: int, frames: int, windows: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(index)
    frame_of = torch.arange(windows) % frames
    return {
        "frame_images": torch.randint(0, 256, (frames, V, 3, S, S), dtype=torch.uint8, generator=random),
        "frame_state": torch.randn(frames, D, generator=random),
        "frame_trace": torch.randn(frames, L, D, generator=random),
        "frame_episode": torch.full((frames,), index),
        "frame_step": torch.arange(frames),
        "frame_task": torch.zeros(frames, dtype=torch.int64),
        "window_episode": torch.full((windows,), index),
        "window_step": frame_of,
        "window_task": torch.zeros(windows, dtype=torch.int64),
        "window_frame": frame_of,
        "window_action": torch.randn(windows, T, D, generator=random),
        "window_valid": torch.rand(windows, T, generator=random) > 0.2,
    }


def shard_meta(V: int, S: int, D: int, T: int, L: int) -> dict:
    quantiles = {"q01": [0.0] * D, "q99": [1.0] * D}
    return {
        **{"horizon": T, "chunk": T, "chunk_size": T, "memory_stride": 2, "trace": L, "fps": 10},
        **{"cameras": [f"camera {index}" for index in range(V)], "resolution": S},
        **{"exclude_joints": [], "critical_joints": []},
        "joint_names": [f"joint {index}" for index in range(D)],
        "tasks": ["push"],
        "statistics": {
            "observation.state": quantiles,
            "action": quantiles | {key: [1.0] for key in ("min", "max", "step")},
        },
        "dataset": {"source": "small", "revision": None, "digest": "0" * 64, "further": []},
    }


def write_folder(folder):
    folder.mkdir()
    records = [write_shard(folder, 0, shard_tensors(0, 4, 3)), write_shard(folder, 1, shard_tensors(1, 5, 5))]
    columns = {
        "window": [0, 1, -1, 2, 3, 4, 5, 6, 7],
        "split": ["train"] * 4 + ["test"] * 5,
        "kept": [True, True, False, True, True, False, True, True, True],
        "strided": [True, False, False, True, True, True, True, True, False],
        "intervention": [True, False, False, False, False, False, False, False, False],
        "to_correction": [0.0] + [math.nan] * 8,
    }
    write_index(folder, {**shard_meta(V, S, D, T, L), "shards": records}, pa.table(columns))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "shards")


def test_what_was_written_is_read_with_global_frame_ids(folder):
    shards, first, second = Shards.open(folder), shard_tensors(0, 4, 3), shard_tensors(1, 5, 5)
    for name in set(TENSORS) - {"frame_images", "window_frame"}:
        np.testing.assert_array_equal(getattr(shards, name), torch.cat([first[name], second[name]]).numpy())
    np.testing.assert_array_equal(shards.window_frame, [0, 1, 2, 4, 5, 6, 7, 8])
    assert list(shards.window_split) == ["train"] * 3 + ["test"] * 5
    assert list(shards.window_kept) == [True, True, True, True, False, True, True, True]
    assert shards.tasks == ["push"]


@st.composite
def contents(draw):
    """Metadata and tensors of one to three shards of any sizes that go together; any finite numbers, any bytes."""
    sizes = {name: draw(st.integers(1, 3)) for name in "VSDT"} | {"L": draw(st.integers(0, 3))}
    tasks = [f"task {index}" for index in range(draw(st.integers(1, 3)))]
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    meta = shard_meta(**sizes) | {"tasks": tasks}
    shards = []
    for _ in range(draw(st.integers(1, 3))):
        frames, windows = draw(st.integers(1, 5)), draw(st.integers(0, 6))
        dimensions = {
            "frame_images": (frames, sizes["V"], 3, sizes["S"], sizes["S"]),
            "frame_state": (frames, sizes["D"]),
            "frame_trace": (frames, sizes["L"], sizes["D"]),
            "window_action": (windows, sizes["T"], sizes["D"]),
            "window_valid": (windows, sizes["T"]),
        }
        tensors = {}
        for name, (dtype, _) in TENSORS.items():
            shape = dimensions.get(name, (frames if name.startswith("frame") else windows,))
            if dtype == torch.float32:
                # Any bits that are a finite number: denormals and negative zero too.
                bits = torch.randint(-(2**31), 2**31, shape, generator=source).to(torch.int32).view(torch.float32)
                tensors[name] = torch.where(bits.isfinite(), bits, -0.0)
            else:
                low, high = {"window_frame": (0, frames), "window_valid": (0, 2), "frame_images": (0, 256)}.get(
                    name, (0, len(tasks)) if name.endswith("task") else (0, 2**62)
                )
                tensors[name] = torch.randint(low, high, shape, generator=source).to(dtype)
        shards.append(tensors)
    return meta, shards


@settings(deadline=None, max_examples=50)
@given(contents())
def test_any_content_comes_back_to_the_bit(content):
    meta, shards = content
    with tempfile.TemporaryDirectory() as place:
        folder, windows = Path(place), sum(len(one["window_step"]) for one in shards)
        records = [write_shard(folder, index, one) for index, one in enumerate(shards)]
        flags = {name: pa.array([True] * windows, pa.bool_()) for name in ("kept", "strided", "intervention")}
        flags["to_correction"] = pa.array([math.nan] * windows, pa.float32())
        split = pa.array(["train"] * windows, pa.string())
        table = pa.table({"window": pa.array(range(windows), pa.int64()), "split": split, **flags})
        write_index(folder, {**meta, "shards": records}, table)
        found = Shards.open(folder)
        for name in set(TENSORS) - {"frame_images", "window_frame"}:
            assert getattr(found, name).tobytes() == torch.cat([one[name] for one in shards]).numpy().tobytes(), name
        first, expected = 0, []
        for one in shards:
            expected.append(one["window_frame"] + first)
            first += len(one["frame_step"])
        np.testing.assert_array_equal(found.window_frame, torch.cat(expected).numpy())
        order = np.random.default_rng(0).permutation(first)
        assert torch.equal(found.images(order), torch.cat([one["frame_images"] for one in shards])[order])


@st.composite
def episodes(draw):
    """Frames of a few episodes in any order, and decisions among them; the stride at which memory reads."""
    stride = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    frames = [(episode, step) for episode, length in enumerate(lengths) for step in range(length)]
    return (
        stride,
        draw(st.permutations(frames)),
        draw(st.lists(st.integers(0, len(frames) - 1), min_size=1, max_size=6)),
    )


@settings(deadline=None, max_examples=50)
@given(episodes())
def test_memory_reads_the_frames_on_its_stride_oldest_first_and_counts_those_before_a_decision(drawn):
    stride, frames, decisions = drawn
    episode, step = (np.array(values) for values in zip(*frames, strict=True))
    empty = {name: None for name in Shards.__dataclass_fields__}
    given = {"frame_episode": episode, "frame_step": step, "window_step": step[decisions]}
    shards = Shards(**empty | given | {"meta": {"memory_stride": stride}})
    found = shards.memory_frames()
    assert set(found) == set(episode.tolist())
    for number, read in found.items():
        assert step[read].tolist() == [one for one in range((episode == number).sum()) if one % stride == 0]
        assert set(episode[read]) == {number}
    reads = shards.memory_reads(np.arange(len(decisions)))
    assert reads.tolist() == [sum(one % stride == 0 for one in range(last)) for last in step[decisions]]


def test_images_come_in_the_order_asked_for(folder):
    shards = Shards.open(folder)
    whole = torch.cat([shard_tensors(0, 4, 3)["frame_images"], shard_tensors(1, 5, 5)["frame_images"]])
    ids = np.array([8, 0, 3, 4, 0, 7])
    assert torch.equal(shards.images(ids), whole[ids])
    assert shards.images(np.zeros(0, dtype=np.int64)).shape == (0, V, 3, S, S)


@pytest.mark.parametrize("frame", [-1, 9])
def test_unknown_frames_are_no_images(folder, frame):
    with pytest.raises(IndexError):
        Shards.open(folder).images(np.array([0, frame]))


def test_bytes_are_stable(folder, tmp_path):
    again = write_folder(tmp_path / "elsewhere_with_another_name")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_truncated_shard_is_named(folder):
    path = folder / shard_name(1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SigmaError, match=r"shard_00001\.pt: the shard is truncated"):
        Shards.open(folder)


@pytest.mark.parametrize("position", [5, 700, -5])
def test_one_flipped_bit_is_noticed(folder, position):
    path = folder / shard_name(0)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(SigmaError, match=r"shard_00000\.pt: the shard was altered"):
        Shards.open(folder)


def test_missing_shard_is_named(folder):
    (folder / shard_name(0)).unlink()
    with pytest.raises(SigmaError, match=r"shard_00000\.pt: the shard is missing"):
        Shards.open(folder)


def test_altered_table_is_named(folder):
    path = folder / "windows.parquet"
    shutil.copy(path, folder / "copy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SigmaError, match=r"windows\.parquet: altered or truncated"):
        Shards.open(folder)


@pytest.mark.parametrize(
    ("version", "hint"),
    # Format 2 is that of the first version, whose windows name the frames of a history.
    [(FORMAT_VERSION + 1, "update this package"), (2, "dvc repro window"), ("x", "dvc repro window")],
)
def test_other_format_version_is_refused(folder, version, hint):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format_version": version}))
    with pytest.raises(SigmaError, match=rf"meta\.json: format version .* is not read here.*{hint}"):
        Shards.open(folder)


@pytest.mark.parametrize("key", ["shards", "tasks", "windows_sha256"])
def test_incomplete_index_is_refused(folder, key):
    meta = json.loads((folder / "meta.json").read_text())
    del meta[key]
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SigmaError, match=rf"meta\.json: key '{key}' is missing"):
        Shards.open(folder)


def test_folder_without_index_says_which_stage_writes_it(tmp_path):
    with pytest.raises(SigmaError, match=r"meta\.json: not found; run the stage"):
        Shards.open(tmp_path)


def test_code_in_a_shard_is_not_run(folder):
    class Run:
        def __reduce__(self):
            return (pytest.fail, ("the shard ran code",))

    path = folder / shard_name(0)
    with open(path, "wb") as file:
        torch.save({"frame_images": Run()}, file)
    meta = json.loads((folder / "meta.json").read_text())
    meta["shards"][0]["bytes"] = path.stat().st_size
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SigmaError, match=r"shard_00000\.pt: not readable as a shard"):
        Shards.open(folder, verify=False)


def test_tensors_of_another_type_are_refused(tmp_path):
    tensors = shard_tensors(0, 4, 3)
    tensors["window_valid"] = tensors["window_valid"].float()
    with pytest.raises(SigmaError, match=r"'window_valid' is not torch\.bool"):
        write_shard(tmp_path, 0, tensors)
    assert not list(tmp_path.iterdir())
