"""The episodes that ``meta/episodes`` lists: where the rows and the films of each lie."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.data.dataset.columns import column_names, read_rows, vector
from sigma.data.dataset.layout import Camera, MissingFile, named_file
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_table

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
    """One recorded episode: its index, its declared frames, the table that holds its rows, its video segments by camera
    (none of a camera that did not film it), and whether the metadata names another table.
    """

    index: int
    length: int
    table: str
    videos: dict[str, Segment]
    misplaced: bool = False


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value from a file is a whole number in this range, which a float may be too."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        return False
    return value == int(value)


def episode_records(root: Path, *columns: str) -> list[dict[str, Any]]:
    """The entries of ``meta/episodes`` by episode: ``episode_index`` and the columns whose names begin with these."""
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise SigmaError(
            f"{root}/meta/episodes: no table of episodes found; the recording was not finished, or files are missing"
        )
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


def read_episodes(
    root: Path, info: Mapping[str, Any], cameras: Mapping[str, Camera]
) -> tuple[tuple[Episode, ...], dict[str, str]]:
    """Every episode in order, and of cameras whose films are not as the metadata says why they cannot be used.

    Raises :class:`SigmaError` for episodes that are missing or unusable.
    """
    records = episode_records(root, "length", "data/", "videos/")
    for position, record in enumerate(records):
        number = record["episode_index"]
        if number != position:
            fault = "is listed twice" if number < position else f"is missing (it goes on with {number})"
            raise SigmaError(
                f"{root}/meta/episodes: episode {min(number, position)} {fault}; LeRobot counts episodes "
                "0, 1, 2, … and finds them by that; take the dataset as it was, and delete with: lerobot-edit-dataset "
                "--repo_id=local/dataset --root=FOLDER --operation.type=delete_episodes --operation.episode_indices=[…]"
            )
    declared = info.get("total_episodes", len(records))
    if len(records) != declared:
        reason = "; the recording was not finished" if declared > len(records) else ""
        raise SigmaError(
            f"{root}/meta/info.json: total_episodes is {declared}, but meta/episodes lists {len(records)}{reason}"
        )
    films, unusable = {}, {}
    for key in [key for key, camera in cameras.items() if camera.kind == "video"]:
        try:
            films[key] = [_segment(root, info, key, record) for record in records]
        except MissingFile as error:
            unusable[key] = str(error)
        except _UNUSABLE as error:
            unusable[key] = f"{root}/meta/episodes: unusable entry ({error})"
    tables, episodes = _Tables(root), []
    for record in records:
        try:
            length, table = record["length"], tables.find(info, record)
            if not is_whole(length, 0, LONGEST_EPISODE):
                raise ValueError(f"length: found {length}; legal: 0 to {LONGEST_EPISODE}")
        except _UNUSABLE as error:
            place = f"{root}/meta/episodes: episode {record['episode_index']}"
            raise SigmaError(f"{place}: unusable entry ({error})") from None
        position = record["episode_index"]
        videos = {key: segments[position] for key, segments in films.items()}
        filmed = {key: segment for key, segment in videos.items() if segment}
        episodes.append(Episode(position, int(length), table, filmed, position in tables.misplaced))
    return tuple(episodes), unusable


_UNUSABLE = (KeyError, TypeError, ValueError, OverflowError)


def _place(record: Mapping[str, Any], prefix: str) -> dict[str, int]:
    return {name: int(record[f"{prefix}/{name}"]) for name in ("chunk_index", "file_index")}


def _segment(root: Path, info: Mapping[str, Any], camera: str, record: Mapping[str, Any]) -> Segment | None:
    """An episode's place in the camera's films; None where the camera did not film it."""
    prefix = f"videos/{camera}"
    if (file := record[f"{prefix}/file_index"]) is None or file != file:  # pandas writes NaN for a null
        return None
    path = named_file(root, info, "video_path", video_key=camera, **_place(record, prefix))
    start, end = record[f"{prefix}/from_timestamp"], record.get(f"{prefix}/to_timestamp")
    if not isinstance(start, int | float) or not 0 <= start < math.inf:
        key = f"episode {record['episode_index']}: {prefix}/from_timestamp"
        raise ValueError(f"{key}: found {start}; legal: seconds from 0")
    return Segment(path, start, end if isinstance(end, float) and math.isfinite(end) else math.inf)


class _Tables:
    """Finds the table that holds an episode's rows: the named one, or whichever has them.

    LeRobot reads all tables of ``data/`` and finds rows by their index, so it never notices a wrong name.
    """

    def __init__(self, root: Path):
        self.root, self.misplaced, self._held = root, set[int](), dict[str, frozenset[int]]()

    def find(self, info: Mapping[str, Any], record: Mapping[str, Any]) -> str:
        """The table of the episode of ``record``; the named one where none holds its rows."""
        episode, missing = record["episode_index"], None
        try:
            name = named_file(self.root, info, "data_path", **_place(record, "data"))
            if episode in self._episodes(name):
                return name
        except MissingFile as error:
            missing = error
        for path in sorted((self.root / "data").rglob("*.parquet")):
            other = path.relative_to(self.root).as_posix()
            if path.is_file() and episode in self._episodes(other):
                self.misplaced.add(episode)
                return other
        if missing:
            raise missing
        return name

    def _episodes(self, name: str) -> frozenset[int]:
        if name not in self._held:
            table = read_rows(self.root / name, [])
            numbers = table["episode_index"].unique().to_pylist() if "episode_index" in table.column_names else []
            self._held[name] = frozenset(number for number in numbers if number is not None)
        return self._held[name]
