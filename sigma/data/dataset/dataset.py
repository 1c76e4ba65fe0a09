"""A LeRobotDataset v3.0 folder, read without decoding an image.

The tables are read with pyarrow. LeRobot's own metadata class would turn to the Hub when a file is missing and copies
tables into a cache elsewhere; here a missing file is an error, and nothing but the folder is touched.

Legend: n frames of an episode, D joints. State and action share their joints; both are float32 [n, D] in the dataset's
own units. The state at a step was measured before the action of that step was sent.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from sigma.data.dataset.columns import column_names, matrix, read_rows, texts, vector
from sigma.data.dataset.layout import ACTION, STATE, Camera, named_file, read_cameras, read_joint_names
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, read_table
from sigma.shared.instructions import clean_instruction

CODEBASE_VERSION = "v3.0"
_COLUMNS = [STATE, ACTION, "timestamp", "frame_index", "task_index"]
MOST_FPS = 1000
LONGEST_EPISODE = 10_000_000  # frames, which are days at any rate; a larger number is a fault of the file


@dataclass(frozen=True)
class Segment:
    """The place of one episode in one video file: the file, relative to the root, its start and its end in seconds; the
    end is infinite where the metadata gives none.
    """

    path: str
    start: float
    end: float


@dataclass(frozen=True)
class Episode:
    """One recorded episode: its index, its declared frames, its table and its video segments by camera."""

    index: int
    length: int
    table: str
    videos: dict[str, Segment]


@dataclass(frozen=True)
class Rows:
    """The table of one episode. ``task`` indexes the dataset's tasks; ``timestamp`` is in seconds."""

    state: np.ndarray
    action: np.ndarray
    timestamp: np.ndarray
    frame_index: np.ndarray
    task: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """What the metadata of a LeRobotDataset says, checked."""

    root: Path
    fps: int
    robot_type: str | None
    joint_names: tuple[str, ...]
    cameras: dict[str, Camera]
    tasks: tuple[str, ...]
    episodes: tuple[Episode, ...]

    @property
    def frames(self) -> int:
        """Declared frames of all episodes."""
        return sum(episode.length for episode in self.episodes)

    def for_workers(self) -> "Dataset":
        """The part that other processes need: without episodes, and with an absolute root."""
        return replace(self, root=self.root.resolve(), episodes=())

    def files(self) -> list[str]:
        """Every file the metadata names, and the metadata itself, relative to the root and sorted."""
        named = {item.relative_to(self.root).as_posix() for item in (self.root / "meta").rglob("*") if item.is_file()}
        for episode in self.episodes:
            named |= {episode.table, *(segment.path for segment in episode.videos.values())}
        named |= {name for name in ("README.md", "LICENSE") if (self.root / name).is_file()}
        return sorted(named)

    def read(self, episode: Episode) -> Rows:
        """The rows of one episode in stored order; raises :class:`SigmaError` where the table is not as declared."""
        path = self.root / episode.table
        return self._rows(read_rows(path, _COLUMNS, episode.index), path)

    def read_each(self, episodes: Iterable[Episode]) -> Iterator[Rows]:
        """The rows of each episode in turn; a table is read once for those that follow each other in it."""
        for path, group in groupby(episodes, key=lambda episode: self.root / episode.table):
            table = read_rows(path, _COLUMNS)
            of_row = vector(table, "episode_index", np.int64, path)
            for episode in group:
                yield self._rows(table.take(np.flatnonzero(of_row == episode.index)), path)

    def _rows(self, table: Any, path: Path) -> Rows:
        return Rows(
            state=matrix(table, STATE, len(self.joint_names), path),
            action=matrix(table, ACTION, len(self.joint_names), path),
            timestamp=vector(table, "timestamp", np.float64, path),
            frame_index=vector(table, "frame_index", np.int64, path),
            task=vector(table, "task_index", np.int64, path),
        )

    def read_encoded_images(self, episode: Episode, camera: str) -> list[bytes]:
        """The encoded images of an episode for a camera of kind ``image``, in stored order."""
        path = self.root / episode.table
        images = read_rows(path, [camera], episode.index)[camera].to_pylist()
        if any(not image or not image.get("bytes") for image in images):
            raise SigmaError(f"{path}: {camera}: an image of episode {episode.index} is not stored in the table")
        return [image["bytes"] for image in images]

    def stored_statistics(self) -> dict[str, Any]:
        """``meta/stats.json``, whose figures of state and action are numbers; empty where there is none."""
        path = self.root / "meta" / "stats.json"
        if not path.is_file():
            return {}
        stored = read_json(path)
        for feature in (STATE, ACTION):
            columns = stored.get(feature, {}) if isinstance(stored, dict) else None
            if not isinstance(columns, dict):
                raise SigmaError(f"{path}: {feature}: expected a mapping of figures by name")
            for name, values in columns.items():
                try:
                    np.asarray(values, dtype=np.float64)
                except (TypeError, ValueError, OverflowError):
                    raise SigmaError(f"{path}: {feature}.{name}: expected numbers") from None
        return stored


def _whole(value: Any, least: int, most: int) -> bool:
    """Whether a value from a file is a whole number in this range, which a float may be too."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        return False
    return value == int(value)


def _tasks(root: Path) -> tuple[str, ...]:
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        raise SigmaError(f"{path}: not found; the dataset is incomplete")
    table = read_table(path)
    # The text is the table's pandas index, whose name LeRobot's writers do not agree on.
    names = column_names(table, path)
    text_columns = [name for name in ("task", "__index_level_0__") if name in names]
    if not text_columns or "task_index" not in names:
        raise SigmaError(f"{path}: expected the columns task and task_index, found {', '.join(names)}")
    numbers = vector(table, "task_index", np.int64, path).tolist()
    if sorted(numbers) != list(range(table.num_rows)):
        raise SigmaError(f"{path}: expected one row a task with task_index 0 to {table.num_rows - 1}")
    text_of = dict(zip(numbers, texts(table, text_columns[0], path), strict=True))
    for index, text in sorted(text_of.items()):
        try:
            if text.strip():  # a task without words is the audit's to report
                clean_instruction(text)
        except SigmaError as error:
            raise SigmaError(f"{path}: task {index}: {error}") from None
    return tuple(text_of[index] for index in range(table.num_rows))


def episode_records(root: Path, *columns: str) -> list[dict[str, Any]]:
    """The entries of ``meta/episodes`` by episode: ``episode_index`` and the columns whose names begin with these."""
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise SigmaError(f"{root}/meta/episodes: no table of episodes found; the dataset is incomplete")
    records: list[dict[str, Any]] = []
    for file in files:
        table = read_table(file)
        numbers = vector(table, "episode_index", np.int64, file).tolist()
        kept = [name for name in column_names(table, file) if name.startswith(columns)]
        try:
            rows = table.select(kept).to_pylist()
        except (KeyError, ValueError) as error:  # a column that is there twice, or bytes that are not text
            raise SigmaError(f"{file}: not readable as a table of episodes ({error})") from None
        records += [row | {"episode_index": number} for row, number in zip(rows, numbers, strict=True)]
    return sorted(records, key=lambda record: record["episode_index"])


def open_dataset(root: Path) -> Dataset:
    """Read and check the metadata of the LeRobotDataset v3.0 under ``root``.

    Raises :class:`SigmaError` for another format version, missing features or files, and for paths in the metadata that
    leave the folder.
    """
    root = Path(root)
    info_path = root / "meta" / "info.json"
    if not info_path.is_file():
        raise SigmaError(f"{root}: not a LeRobotDataset folder (no meta/info.json)")
    info = read_json(info_path)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version != CODEBASE_VERSION:
        hint = "re-record it or convert it with LeRobot"
        if version == "v2.1":
            hint = "convert it with python -m lerobot.scripts.convert_dataset_v21_to_v30"
        raise SigmaError(f"{info_path}: codebase_version {version!r} is not read, only {CODEBASE_VERSION!r}; {hint}")
    features, fps = info.get("features"), info.get("fps")
    if not isinstance(features, dict):
        raise SigmaError(f"{info_path}: features: expected a mapping of features")
    if not _whole(fps, 1, MOST_FPS):
        raise SigmaError(f"{info_path}: fps: expected a whole number from 1 to {MOST_FPS}, found {short(fps)}")
    for key in ("total_episodes", "total_frames"):
        if not _whole(info.get(key, 0), 0, 2**53):
            raise SigmaError(f"{info_path}: {key}: expected a whole number, found {short(info[key])}")
    if not isinstance(info.get("robot_type"), str | None):
        raise SigmaError(f"{info_path}: robot_type: expected a name or null, found {short(info['robot_type'])}")
    joint_names, cameras = read_joint_names(features, info_path), read_cameras(features, info_path)
    episodes = []
    for position, record in enumerate(episode_records(root, "length", "data/", "videos/")):
        if record["episode_index"] != position:
            raise SigmaError(f"{root}/meta/episodes: episode {position} is missing or listed twice")
        try:
            episodes.append(_episode(root, info, record, cameras))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SigmaError(f"{root}/meta/episodes: episode {position}: unusable entry ({error})") from None
    if len(episodes) != info.get("total_episodes", len(episodes)):
        raise SigmaError(
            f"{info_path}: total_episodes is {info['total_episodes']}, but meta/episodes lists {len(episodes)}"
        )
    return Dataset(root, int(fps), info.get("robot_type"), joint_names, cameras, _tasks(root), tuple(episodes))


def _episode(root: Path, info: dict[str, Any], record: dict[str, Any], cameras: dict[str, Camera]) -> Episode:
    def place(prefix: str) -> dict[str, int]:
        return {name: int(record[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}

    table = named_file(root, info, "data_path", **place("data"))
    videos = {}
    for key, camera in cameras.items():
        if camera.kind == "video":
            path = named_file(root, info, "video_path", video_key=key, **place(f"videos/{key}"))
            start = float(record[f"videos/{key}/from_timestamp"])
            if not 0 <= start < math.inf:
                raise ValueError(f"videos/{key}/from_timestamp: found {start}; legal: seconds from 0")
            end = record.get(f"videos/{key}/to_timestamp")
            videos[key] = Segment(path, start, end if isinstance(end, float) and math.isfinite(end) else math.inf)
    length = int(record["length"])
    if not _whole(record["length"], 0, LONGEST_EPISODE):
        raise ValueError(f"length: found {record['length']}; legal: 0 to {LONGEST_EPISODE}")
    return Episode(record["episode_index"], length, table, videos)
