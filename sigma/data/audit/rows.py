"""The tables as the audit reads them: every value as it is stored; what is missing is marked instead of refused.

:mod:`sigma.data.dataset.dataset` refuses a table that is not as declared, which is right for the stages that compute
with it. The audit has to say where the fault is, so that the episode can be left out. Each data file is read once.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from sigma.data.dataset.dataset import ACTION, INTERVENTION, STATE, Dataset
from sigma.data.dataset.episodes import episode_records
from sigma.data.dataset.statistics import Statistics
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json

VECTORS, TIME = (STATE, ACTION), "timestamp"
COUNTERS = ("frame_index", "index", "task_index")
COLUMNS = (*VECTORS, TIME, *COUNTERS)
# How far a column is from what meta/info.json declares: another type that still holds the values, or not readable.
OTHER_TYPE, UNREADABLE = 1, 2


@dataclass(frozen=True)
class StoredRows:
    """The table of one episode, n rows in stored order: state and action float32 [n, D], NaN where a value is missing;
    time float64 [n]; the counters int64 [n], −1 where missing. ``faults`` says by column what is not as declared,
    ``person`` bool [n] where a person acted: in demonstrations everywhere.
    """

    count: int
    faults: dict[str, tuple[int, str]]
    state: np.ndarray
    action: np.ndarray
    timestamp: np.ndarray
    frame_index: np.ndarray
    index: np.ndarray
    task: np.ndarray
    person: np.ndarray

    def of_joints(self, kept: list[int]) -> "StoredRows":
        """The same rows with these joints alone."""
        return replace(self, state=self.state[:, kept], action=self.action[:, kept])

    @property
    def readable(self) -> bool:
        """Whether every column holds what it is named for."""
        return all(level < UNREADABLE for level, _ in self.faults.values())


@dataclass(frozen=True)
class Declared:
    """What ``meta/episodes`` says of an episode besides its length."""

    indices: tuple[int, int] | None  # the global index of its first row, and the one after its last; None if not given
    before: int  # the index after the last row of the episode before
    spans: dict[str, tuple[float, float]]  # by camera, begin and end of its part of the video file in seconds


@dataclass(frozen=True)
class Tables:
    """All tables of a dataset: rows and declarations by episode, and meta/stats.json."""

    rows: dict[int, StoredRows]
    declared: dict[int, Declared]
    statistics: dict[str, Statistics]
    strays: int  # rows that belong to no episode
    frame_excess: int  # frames that meta/info.json declares beyond the episodes' lengths

    def of_joints(self, kept: list[int]) -> "Tables":
        """The same tables with these joints alone."""
        rows = {index: stored.of_joints(kept) for index, stored in self.rows.items()}
        statistics = dict(self.statistics)
        for feature in set(VECTORS) & set(statistics):
            statistics[feature] = {
                name: [values[joint] for joint in kept if joint < len(values)] if isinstance(values, list) else values
                for name, values in statistics[feature].items()
            }
        return replace(self, rows=rows, statistics=statistics)


def _values(column: pyarrow.ChunkedArray) -> np.ndarray | None:
    """A column of numbers as float64 with NaN where a value is missing; None where it holds no numbers."""
    if not (pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type)):
        return None
    return column.cast(pyarrow.float64(), safe=False).fill_null(np.nan).to_numpy()


def _whole(values: np.ndarray) -> np.ndarray:
    """Counters as int64 with −1 where there is none."""
    return np.where(np.isfinite(values), values, -1).astype(np.int64)


def _matrix(column: pyarrow.ChunkedArray, width: int) -> tuple[np.ndarray, int]:
    """A column of vectors as float32 [n, width] with NaN where values are missing, and the rows of another length."""
    kind, types = column.type, pyarrow.types
    if types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind):
        fits = pyarrow.compute.equal(pyarrow.compute.list_value_length(column), width)  # null where a vector is missing
        numbers = _values(pyarrow.compute.list_flatten(column.filter(fits)))
    else:  # a vector of one number may be stored as a number
        fits = pyarrow.array(np.ones(len(column), dtype=bool))
        numbers = _values(column) if width == 1 else None
    if numbers is None:
        return np.zeros((0, width), np.float32), len(column)
    values = np.full((len(column), width), np.nan, dtype=np.float32)
    values[fits.fill_null(False).to_numpy(zero_copy_only=False)] = numbers.reshape(-1, width)
    return values, pyarrow.compute.sum(pyarrow.compute.invert(fits)).as_py() or 0


def _stored_type(kind: pyarrow.DataType) -> str:
    """The name of a column's numbers as meta/info.json writes it."""
    inner = kind.value_type if pyarrow.types.is_nested(kind) and hasattr(kind, "value_type") else kind
    return {"float": "float32", "double": "float64", "halffloat": "float16"}.get(str(inner), str(inner))


def _episode(table: pyarrow.Table, width: int, declared_types: dict[str, str], corrected: bool) -> StoredRows:
    faults: dict[str, tuple[int, str]] = {}
    columns: dict[str, np.ndarray] = {}
    for name in COLUMNS:
        columns[name] = np.zeros((0, width), np.float32) if name in VECTORS else np.zeros(0)
        if name not in table.column_names:
            faults[name] = (UNREADABLE, "is missing")
            continue
        stored = _stored_type(table[name].type)
        if stored != declared_types.get(name, stored):
            faults[name] = (OTHER_TYPE, f"is stored as {stored}, declared as {declared_types[name]}")
        if name in VECTORS:
            vectors, misfits = _matrix(table[name], width)
            if misfits:
                faults[name] = (UNREADABLE, f"has no {width} numbers in {misfits} rows")
            else:
                columns[name] = vectors
        elif (values := _values(table[name])) is None:
            faults[name] = (UNREADABLE, f"is {stored}, not numbers")
        else:
            columns[name] = _whole(values) if name in COUNTERS else values
    columns["person"] = np.ones(table.num_rows, dtype=bool)
    if corrected:
        columns["person"] = table[INTERVENTION].fill_null(False).to_numpy().astype(bool)
    return StoredRows(table.num_rows, faults, *columns.values())


def _file(path: Path) -> pyarrow.Table:
    try:
        names = set(pyarrow.parquet.read_schema(path).names)
        if "episode_index" not in names:
            raise SigmaError(f"{path}: column 'episode_index' is missing")
        wanted = (*COLUMNS, INTERVENTION)
        return pyarrow.parquet.read_table(path, columns=["episode_index", *(name for name in wanted if name in names)])
    except (OSError, pyarrow.ArrowException) as error:
        raise SigmaError(f"{path}: not readable as a LeRobot table ({' '.join(str(error).split())})") from None


def _declared_number(root: Path, record: Mapping[str, Any], key: str) -> Any:
    """A number in an episode's entry; None where its table has no such column."""
    value = record.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SigmaError(
            f"{root}/meta/episodes: episode {record['episode_index']}: {key}: expected a number, found {short(value)}"
        )
    return record.get(key)


def _declared(dataset: Dataset) -> dict[int, Declared]:
    """What the tables of ``meta/episodes`` say of each episode."""
    declared: dict[int, Declared] = {}
    before = 0
    for record in episode_records(dataset.root, "length", "dataset_", "videos/"):
        number = partial(_declared_number, dataset.root, record)
        ends = number("dataset_from_index"), number("dataset_to_index")
        spans = {}
        for camera in dataset.episodes[record["episode_index"]].videos:
            span = tuple(number(f"videos/{camera}/{end}_timestamp") for end in ("from", "to"))
            if None not in span:
                spans[camera] = span
        indices = None if None in ends else ends
        declared[record["episode_index"]] = Declared(indices, before, spans)
        before = ends[1] if indices else before + record["length"]
    return declared


def read_tables(dataset: Dataset, corrected: Collection[int] = ()) -> Tables:
    """Read every table of ``dataset``; raises :class:`SigmaError` for a file that is no table of episodes.

    In the episodes ``corrected`` a policy acted but where a person did.

    Rows of an episode are those of its own file that carry its number. Memory grows by 8 bytes a joint and frame (48 MB
    for a million frames of six joints).
    """
    info: dict[str, Any] = read_json(dataset.root / "meta" / "info.json")
    types = {
        name: feature["dtype"]
        for name, feature in info["features"].items()
        if isinstance(feature, dict) and isinstance(feature.get("dtype"), str)
    }
    width, rows, strays = len(dataset.joint_names), {}, 0
    for name in dict.fromkeys(episode.table for episode in dataset.episodes):
        table = _file(dataset.root / name)
        numbers = _values(table["episode_index"])
        if numbers is None:
            raise SigmaError(f"{dataset.root / name}: column 'episode_index' is not numeric")
        owner = _whole(numbers)
        order = np.argsort(owner, kind="stable")
        table = table.take(order) if (order[1:] < order[:-1]).any() else table
        owner, expected = owner[order], [episode.index for episode in dataset.episodes if episode.table == name]
        first, after = (np.searchsorted(owner, expected, side=side) for side in ("left", "right"))
        for index, begin, end in zip(expected, first.tolist(), after.tolist(), strict=True):
            rows[index] = _episode(table.slice(begin, end - begin), width, types, index in corrected)
        strays += len(owner) - int((after - first).sum())
    total = info.get("total_frames")
    excess = total - dataset.frames if isinstance(total, int) else 0
    return Tables(rows, _declared(dataset), dataset.stored_statistics(), strays, excess)
