"""A LeRobotDataset v3.0 folder, read without decoding an image.

The tables are read with pyarrow. LeRobot's own metadata class would turn to the Hub when a file is missing and copies
tables into a cache elsewhere; here a missing file is an error, and nothing but the folder is touched.

Legend: n frames of an episode, D joints. State and action share their joints; both are float32 [n, D] in the dataset's
own units. The state at a step was measured before the action of that step was sent.
"""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sigma.errors import SigmaError
from sigma.io import read_json, read_table

STATE, ACTION = "observation.state", "action"
CODEBASE_VERSION = "v3.0"


@dataclass(frozen=True)
class Camera:
    """How a camera's frames are stored: ``kind`` is ``video`` (mp4) or ``image`` (encoded inside the table)."""

    height: int
    width: int
    kind: str


@dataclass(frozen=True)
class Segment:
    """The place of one episode in one video file: the file, relative to the root, and its start in seconds."""

    path: str
    start: float


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
        """The part that other processes need: no episodes, and a root that holds in any current directory."""
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
        table = _episode_rows(path, episode.index, [STATE, ACTION, "timestamp", "frame_index", "task_index"])
        return Rows(
            state=_matrix(table, STATE, len(self.joint_names), path),
            action=_matrix(table, ACTION, len(self.joint_names), path),
            timestamp=_vector(table, "timestamp", np.float64, path),
            frame_index=_vector(table, "frame_index", np.int64, path),
            task=_vector(table, "task_index", np.int64, path),
        )

    def read_encoded_images(self, episode: Episode, camera: str) -> list[bytes]:
        """The encoded images of an episode for a camera of kind ``image``, in stored order."""
        path = self.root / episode.table
        images = _episode_rows(path, episode.index, [camera])[camera].to_pylist()
        if any(not image or not image.get("bytes") for image in images):
            raise SigmaError(f"{path}: {camera}: an image of episode {episode.index} is not stored in the table")
        return [image["bytes"] for image in images]

    def stored_statistics(self) -> dict[str, Any]:
        """``meta/stats.json`` as it is; empty where there is none."""
        path = self.root / "meta" / "stats.json"
        return read_json(path) if path.is_file() else {}


def _episode_rows(path: Path, episode: int, columns: list[str]):
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, columns=columns, filters=[("episode_index", "==", episode)])
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        raise SigmaError(f"{path}: not readable as a LeRobot table ({' '.join(str(error).split())})") from None


def _vector(table, column: str, dtype: type, path: Path) -> np.ndarray:
    if column not in table.column_names:
        raise SigmaError(f"{path}: column {column!r} is missing")
    values = table[column]
    if values.null_count:
        raise SigmaError(f"{path}: column {column!r} has {values.null_count} empty values")
    return values.to_numpy().astype(dtype)


def _matrix(table, column: str, width: int, path: Path) -> np.ndarray:
    if column not in table.column_names:
        raise SigmaError(f"{path}: column {column!r} is missing")
    rows = table[column].to_pylist()
    if not rows:
        return np.zeros((0, width), dtype=np.float32)
    try:
        values = np.array(rows, dtype=np.float32).reshape(len(rows), -1)
    except (TypeError, ValueError):
        raise SigmaError(f"{path}: column {column!r} is not numeric with equal lengths") from None
    if values.shape[1] != width:
        raise SigmaError(f"{path}: column {column!r} has {values.shape[1]} values a row, meta/info.json says {width}")
    return values


def _path(root: Path, template: Any, where: str, **fields: Any) -> str:
    """The file a template names, relative to the root; one that leaves the folder or is missing is refused."""
    try:
        name = template.format(**fields)
    except (AttributeError, KeyError, IndexError, ValueError, TypeError):
        raise SigmaError(f"{root}/meta/info.json: {where}: not a path template: {template!r}") from None
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise SigmaError(f"{root}/meta/info.json: {where}: {name!r} leaves the dataset's folder")
    if not (root / name).is_file():
        raise SigmaError(f"{root}/{name}: not found, but the metadata names it; the dataset is incomplete")
    return name


def _joint_names(features: dict[str, Any], info: Path) -> tuple[str, ...]:
    found: dict[str, tuple[str, ...]] = {}
    for key in (STATE, ACTION):
        feature = features.get(key)
        shape = list(feature.get("shape") or []) if isinstance(feature, dict) else []
        if len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
            raise SigmaError(f"{info}: features.{key}: a vector is needed, found shape {shape or None}")
        names = feature.get("names")
        if isinstance(names, dict):
            names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
        if not names or len(names) != shape[0]:
            names = [f"joint_{index}" for index in range(shape[0])]
        found[key] = tuple(map(str, names))
    if len(found[STATE]) != len(found[ACTION]):
        raise SigmaError(
            f"{info}: {STATE} has {len(found[STATE])} values and {ACTION} {len(found[ACTION])}; "
            "only datasets whose action sets the joints that the state measures are read"
        )
    return found[ACTION]


def _cameras(features: dict[str, Any], info: Path) -> dict[str, Camera]:
    cameras = {}
    for key, feature in features.items():
        kind = feature.get("dtype") if isinstance(feature, dict) else None
        if kind not in ("video", "image"):
            continue
        details = feature.get("info") or {}
        if details.get("is_depth_map") or details.get("video.is_depth_map"):
            continue
        shape = list(feature.get("shape") or [])
        if len(shape) != 3 or 3 not in (shape[0], shape[-1]):
            raise SigmaError(f"{info}: features.{key}: expected height, width and 3 channels, found {shape}")
        height, width = shape[:2] if shape[-1] == 3 else shape[1:]
        cameras[key] = Camera(int(height), int(width), kind)
    if not cameras:
        raise SigmaError(f"{info}: the dataset has no camera; features of dtype video or image are needed")
    return cameras


def _tasks(root: Path) -> tuple[str, ...]:
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        raise SigmaError(f"{path}: not found; the dataset is incomplete")
    table = read_table(path)
    # The text is the table's pandas index, whose name LeRobot's writers do not agree on.
    texts = [name for name in ("task", "__index_level_0__") if name in table.column_names]
    if not texts or "task_index" not in table.column_names:
        raise SigmaError(f"{path}: expected the columns task and task_index, found {', '.join(table.column_names)}")
    text_of = dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))
    if sorted(text_of) != list(range(table.num_rows)):
        raise SigmaError(f"{path}: expected one row a task with task_index 0 to {table.num_rows - 1}")
    return tuple(str(text_of[index]) for index in range(table.num_rows))


def _episode_records(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise SigmaError(f"{root}/meta/episodes: no table of episodes found; the dataset is incomplete")
    records = []
    for file in files:
        table = read_table(file)
        if "episode_index" not in table.column_names:
            raise SigmaError(f"{file}: column 'episode_index' is missing")
        kept = [name for name in table.column_names if not name.startswith("stats/")]
        records += table.select(kept).to_pylist()
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
    if not isinstance(fps, int | float) or isinstance(fps, bool) or fps <= 0 or fps != int(fps):
        raise SigmaError(f"{info_path}: fps: expected a whole number above 0, found {fps!r}")
    joint_names, cameras = _joint_names(features, info_path), _cameras(features, info_path)
    episodes = []
    for position, record in enumerate(_episode_records(root)):
        if record["episode_index"] != position:
            raise SigmaError(f"{root}/meta/episodes: episode {position} is missing or listed twice")
        try:
            episodes.append(_episode(root, info, record, cameras))
        except (KeyError, TypeError, ValueError) as error:
            raise SigmaError(f"{root}/meta/episodes: episode {position}: unusable entry ({error})") from None
    if len(episodes) != info.get("total_episodes", len(episodes)):
        raise SigmaError(
            f"{info_path}: total_episodes is {info['total_episodes']}, but meta/episodes lists {len(episodes)}"
        )
    return Dataset(
        root, int(fps), info.get("robot_type"), joint_names, cameras, _tasks(root), tuple(episodes)
    )  # fmt: skip


def _episode(root: Path, info: dict[str, Any], record: dict[str, Any], cameras: dict[str, Camera]) -> Episode:
    table = _path(
        root,
        info.get("data_path"),
        "data_path",
        chunk_index=int(record["data/chunk_index"]),
        file_index=int(record["data/file_index"]),
    )
    videos = {}
    for key, camera in cameras.items():
        if camera.kind == "video":
            path = _path(
                root,
                info.get("video_path"),
                "video_path",
                video_key=key,
                chunk_index=int(record[f"videos/{key}/chunk_index"]),
                file_index=int(record[f"videos/{key}/file_index"]),
            )
            videos[key] = Segment(path, float(record[f"videos/{key}/from_timestamp"]))
    return Episode(int(record["episode_index"]), int(record["length"]), table, videos)
