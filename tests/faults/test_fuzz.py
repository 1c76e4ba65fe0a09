"""The dataset reader on metadata that was mutated at random: it gives a valid dataset, or one line that names a file.

Every mutation is an example of Hypothesis', so that a failure shrinks to a small one. The time is boxed, not their
number.
"""

import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sigma.compute.workers import Workers
from sigma.data.audit.findings import audit_dataset, choose_episodes, count_findings
from sigma.data.audit.limits import choose_limits
from sigma.data.audit.measures import Settings
from sigma.data.dataset.dataset import ACTION, STATE, Dataset, open_dataset
from sigma.shared.errors import SigmaError
from tests.datasets import CAMERAS, write_dataset

SECONDS, LONG = 3.0, 60.0
INFO, TASKS, EPISODES = "meta/info.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"

LIMITS = choose_limits({})

WORDS = st.sampled_from(
    ["", "..", "../x", "/etc/passwd", "v3.0", "video", "image", "{", "{video_key:9d}", "\0", "\ud800", "é" * 300]
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, -(2**63), 10**400, 0.5, 1e300, float("inf"), -float("inf"), float("nan")]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A small dataset whose info.json holds no more than is read of it, so that most mutations matter."""
    root = write_dataset(tmp_path_factory.mktemp("fuzz") / "recorded", (6, 5, 7), cameras=CAMERAS[:1], size=(16, 16))
    info = json.loads((root / INFO).read_text())
    kept = ("codebase_version", "fps", "data_path", "video_path", "total_episodes", "total_frames", "robot_type")
    features = {
        name: {key: info["features"][name][key] for key in ("dtype", "shape", "names")}
        for name in (STATE, ACTION, CAMERAS[0])
    }
    (root / INFO).write_text(json.dumps({key: info[key] for key in kept} | {"features": features}))
    return root


def place_in(data: Any, draw: Callable) -> tuple[Any, Any]:
    """A container in nested JSON and one of its keys; the nearer to the top, the likelier."""
    node = data
    while True:
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or draw(st.booleans()):
            return node, key
        node = node[key]


def mutate_json(content: bytes, draw: Callable) -> bytes:
    """One to three places get another value or lose theirs."""
    data = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        node, key = place_in(data, draw)
        if draw(st.integers(0, 3)):
            node[key] = draw(VALUES)
        elif len(data) > 1:
            del node[key]
    return json.dumps(data).encode("utf-8", "surrogatepass")


def columns_of(kind: pa.DataType, rows: int, draw: Callable) -> pa.Array:
    """A column of this type with values that are legal for it and maybe for nothing else."""
    if pa.types.is_integer(kind):
        return pa.array([draw(st.none() | st.integers(-(2**63), 2**63 - 1)) for _ in range(rows)], pa.int64())
    if pa.types.is_floating(kind):
        return pa.array([draw(st.none() | st.floats()) for _ in range(rows)], pa.float64())
    if pa.types.is_binary(kind):
        return pa.array([draw(st.none() | st.binary(max_size=4)) for _ in range(rows)], pa.binary())
    if pa.types.is_list(kind):
        return pa.array(
            [draw(st.none() | st.lists(st.integers(-2, 2), max_size=2)) for _ in range(rows)], pa.list_(pa.int64())
        )
    return pa.array([draw(st.none() | st.text(max_size=4)) for _ in range(rows)], pa.string())


KINDS = st.sampled_from([pa.int64(), pa.float64(), pa.binary(), pa.list_(pa.int64()), pa.string(), pa.bool_()])


def mutate_table(content: bytes, draw: Callable) -> bytes:
    """Columns with other values or types, dropped, twice or renamed; rows dropped, doubled or in another order."""
    table = pq.read_table(pa.BufferReader(content))
    for _ in range(draw(st.integers(1, 3))):
        names, rows = table.column_names, table.num_rows
        what = draw(st.sampled_from(["values", "drop", "rename", "twice", "rows", "nothing"]))
        if what == "rows" and rows:
            table = table.take(pa.array(draw(st.lists(st.integers(0, rows - 1), max_size=2 * rows)), pa.int64()))
        elif names:
            index = draw(st.integers(0, len(names) - 1))
            if what == "values":
                kind = draw(st.just(table.schema.types[index]) | KINDS)
                table = table.set_column(index, names[index], columns_of(kind, rows, draw))
            elif what == "drop":
                table = table.remove_column(index)
            elif what == "twice":
                table = table.append_column(names[index], table.column(index))
            elif what == "rename":
                other = draw(st.sampled_from([*names, "", "length", "data/chunk_index"]))
                table = table.rename_columns([*names[:index], other, *names[index + 1 :]])
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return buffer.getvalue().to_pybytes()


def mutate_bytes(content: bytes, draw: Callable) -> bytes:
    """Bytes changed, cut off, or put in between."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        what = draw(st.sampled_from(["change", "cut", "insert"]))
        if what == "change" and changed:
            changed[place] = draw(st.integers(0, 255))
        elif what == "cut":
            del changed[place:]
        else:
            changed[place:place] = draw(st.binary(max_size=8))
    return bytes(changed)


def check(dataset: Dataset) -> None:
    """What everything later takes for granted of a dataset that was opened."""
    assert dataset.fps > 0 and dataset.joint_names and (dataset.cameras or dataset.unusable) and dataset.episodes
    for position, episode in enumerate(dataset.episodes):
        assert episode.index == position and 0 <= episode.length <= 10**7
        for name in (episode.table, *(segment.path for segment in episode.videos.values())):
            assert (dataset.root / name).resolve().is_relative_to(dataset.root.resolve())
        assert all(np.isfinite(segment.start) and segment.start >= 0 for segment in episode.videos.values())
    assert all(isinstance(text, str) for text in dataset.tasks)
    dataset.read(dataset.episodes[0])
    findings = audit_dataset(dataset, LIMITS, Settings(4, -100.0, 100.0), Workers(), decode=False)
    assert {finding.severity for finding in findings} <= {"warn", "fail"}
    count_findings(findings, choose_episodes(dataset, findings, [], drop_failed=True))


def fuzz(root: Path, name: str, mutate: Callable[[bytes, Callable], bytes], seconds: float) -> tuple[int, int]:
    """Open the dataset with ``name`` mutated until the time is over; returns how many were valid, and how many not."""
    path, counts, end = root / name, [0, 0], time.process_time() + seconds
    whole = path.read_bytes()

    def once(data: st.DataObject) -> None:
        path.write_bytes(mutate(whole, data.draw))
        try:
            check(open_dataset(root))
            counts[0] += 1
        except SigmaError as error:
            assert "\n" not in str(error) and str(root) in str(error)
            counts[1] += 1

    try:
        for number in count():
            few = settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            seed(number)(few(given(st.data())(once)))()
            if time.process_time() > end:
                break
    finally:
        path.write_bytes(whole)
    return counts[0], counts[1]


CASES = {
    "info.json": (INFO, mutate_json),
    "bytes of info.json": (INFO, mutate_bytes),
    "tasks.parquet": (TASKS, mutate_table),
    "episodes.parquet": (EPISODES, mutate_table),
    "bytes of episodes.parquet": (EPISODES, mutate_bytes),
}


@pytest.mark.minutes
@pytest.mark.parametrize("case", CASES)
def test_mutated_metadata_is_read_or_refused_in_one_line(recorded, case):
    valid, refused = fuzz(recorded, *CASES[case], seconds=SECONDS * (1 if "bytes" not in case else 0.3))
    assert valid + refused > 10 and refused > 0, (valid, refused)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_mutated_metadata_for_longer(recorded, case):
    valid, refused = fuzz(recorded, *CASES[case], seconds=LONG)
    assert valid > 0 and refused > 100, (valid, refused)
