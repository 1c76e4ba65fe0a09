"""A LeRobotDataset v3.0 folder, read without decoding an image.

The tables are read with pyarrow. LeRobot's own metadata class would turn to the Hub when a file is missing and copies
tables into a cache elsewhere; here a missing file is an error, and nothing but the folder is touched.

Legend: n frames of an episode, D joints. State and action share their joints; both are float32 [n, D] in the dataset's
own units. The state at a step was measured before the action of that step was sent.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from sigma.data.dataset.columns import column_names, matrix, read_rows, texts, vector
from sigma.data.dataset.episodes import Episode, is_whole, read_episodes
from sigma.data.dataset.layout import ACTION, STATE, Camera, read_cameras, read_joint_names, renamed
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, read_table
from sigma.shared.instructions import clean_instruction

CODEBASE_VERSION = "v3.0"
INTERVENTION = "intervention"  # LeRobot's column: a person acted in this frame, not the policy
_COLUMNS = [STATE, ACTION, "timestamp", "frame_index", "task_index"]
MOST_FPS = 1000


@dataclass(frozen=True)
class Rows:
    """The table of one episode. ``task`` indexes the dataset's tasks; ``timestamp`` is in seconds; ``intervention`` is
    true where a person acted in a policy's place, and false where the dataset does not say."""

    state: np.ndarray
    action: np.ndarray
    timestamp: np.ndarray
    frame_index: np.ndarray
    task: np.ndarray
    intervention: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """What the metadata of a LeRobotDataset says, checked; ``unusable`` says why further cameras are not read, and
    ``intervenes`` whether there is a column of interventions."""

    root: Path
    fps: int
    robot_type: str | None
    joint_names: tuple[str, ...]
    cameras: dict[str, Camera]
    tasks: tuple[str, ...]
    episodes: tuple[Episode, ...]
    unusable: dict[str, str]
    intervenes: bool = False

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
        return self._rows(read_rows(path, self._columns, episode.index), path)

    def read_each(self, episodes: Iterable[Episode]) -> Iterator[Rows]:
        """The rows of each episode in turn; a table is read once for those that follow each other in it."""
        for path, group in groupby(episodes, key=lambda episode: self.root / episode.table):
            table = read_rows(path, self._columns)
            of_row = vector(table, "episode_index", np.int64, path)
            for episode in group:
                yield self._rows(table.take(np.flatnonzero(of_row == episode.index)), path)

    @property
    def _columns(self) -> list[str]:
        return [*_COLUMNS, INTERVENTION] if self.intervenes else _COLUMNS

    def _rows(self, table: Any, path: Path) -> Rows:
        marked = (
            vector(table, INTERVENTION, np.bool_, path) if self.intervenes else np.zeros(table.num_rows, dtype=bool)
        )
        return Rows(
            state=matrix(table, STATE, len(self.joint_names), path),
            action=matrix(table, ACTION, len(self.joint_names), path),
            timestamp=vector(table, "timestamp", np.float64, path),
            frame_index=vector(table, "frame_index", np.int64, path),
            task=self._same_task(vector(table, "task_index", np.int64, path)),
            intervention=marked,
        )

    def _same_task(self, task: np.ndarray) -> np.ndarray:
        """The first task of the same text: LeRobot counts texts that differ by blanks alone as two tasks."""
        first = np.array([self.tasks.index(text) for text in self.tasks], dtype=np.int64)
        known = (task >= 0) & (task < len(first))
        return np.where(known, first[np.where(known, task, 0)], task) if len(first) else task

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
    # Tabs, line breaks and runs of spaces come from the shell or the file that a task was pasted from.
    words = (" ".join(text.split()) for text in texts(table, text_columns[0], path))
    text_of = dict(zip(numbers, words, strict=True))
    for index, text in sorted(text_of.items()):
        try:
            if text:  # a task without words is the audit's to report
                clean_instruction(text)
        except SigmaError as error:
            raise SigmaError(f"{path}: task {index}: {error}") from None
    return tuple(text_of[index] for index in range(table.num_rows))


def _with_lerobots_names(features: dict[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    for name, own in keys.items():
        fault = f"the dataset has no {own!r}" if own not in features else ""
        fault = f"the dataset has a feature {name!r} beside {own!r}" if not fault and name in features else fault
        if fault:
            raise SigmaError(f"params.yaml: fetch.dataset.keys.{name}: {fault}; it has {', '.join(features)}")
    return renamed(features, {own: name for name, own in keys.items()})


def _conversion(root: Path) -> str:
    """The command that turns a v2.1 dataset into v3.0 and uploads nothing: in place, or from the Hub's cache into
    LeRobot's folder, where a Hub id without a revision is found."""
    command = "python -m lerobot.scripts.convert_dataset_v21_to_v30 --push-to-hub=false"
    if root.parent.name == "snapshots":
        return f"{command} --repo-id={root.parents[1].name.removeprefix('datasets--').replace('--', '/')}"
    return f"{command} --repo-id=local/dataset --root={shlex.quote(str(root.resolve()))}"


def open_dataset(root: Path, keys: Mapping[str, str] | None = None) -> Dataset:
    """Read and check the metadata of the LeRobotDataset v3.0 under ``root``; ``keys`` are its own names of features by
    LeRobot's, where it was not written by LeRobot.

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
        newer = isinstance(version, str) and re.fullmatch(r"v\d+\.\d+", version) and version > CODEBASE_VERSION
        hint = (
            "a newer LeRobot wrote it; record with lerobot 0.6"
            if newer
            else "convert it with LeRobot 0.3 to v2.1 first"
        )
        if version == "v2.1":
            hint = f"convert it with: {_conversion(root)}"
        raise SigmaError(f"{info_path}: codebase_version {version!r} is not read, only {CODEBASE_VERSION!r}; {hint}")
    features, fps = info.get("features"), info.get("fps")
    if not isinstance(features, dict):
        raise SigmaError(f"{info_path}: features: expected a mapping of features")
    features = _with_lerobots_names(features, keys or {})
    if not is_whole(fps, 1, MOST_FPS):
        raise SigmaError(f"{info_path}: fps: expected a whole number from 1 to {MOST_FPS}, found {short(fps)}")
    for key in ("total_episodes", "total_frames"):
        if not is_whole(info.get(key, 0), 0, 2**53):
            raise SigmaError(f"{info_path}: {key}: expected a whole number, found {short(info[key])}")
    if not isinstance(info.get("robot_type"), str | None):
        raise SigmaError(f"{info_path}: robot_type: expected a name or null, found {short(info['robot_type'])}")
    joint_names, (cameras, unusable) = read_joint_names(features, info_path), read_cameras(features, info_path)
    episodes, lacking = read_episodes(root, info, cameras)
    cameras = {key: camera for key, camera in cameras.items() if key not in lacking}
    robot, tasks = info.get("robot_type"), _tasks(root)
    mark = features.get(INTERVENTION)
    intervenes = isinstance(mark, dict) and mark.get("dtype") == "bool"
    return Dataset(root, int(fps), robot, joint_names, cameras, tasks, episodes, unusable | lacking, intervenes)
