"""A dataset with its episodes several times over: tables are rewritten with other numbers, videos are links."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from sigma.data.dataset.dataset import Dataset, open_dataset
from sigma.shared.files import read_json


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system gives none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _name(template: str, chunk: int, file: int, **fields: Any) -> str:
    return template.format(chunk_index=chunk, file_index=file, **fields)


def repeat_dataset(source: Path, target: Path, times: int) -> Dataset:
    """Write under ``target`` a LeRobotDataset v3.0 with the episodes of ``source`` ``times`` times in a row.

    Episode e of copy k is episode e + k·E of the new dataset; each copy has files of its own, so that reading does not
    gain from one copy for the next but by the page cache.
    """
    dataset = open_dataset(source)
    info = read_json(source / "meta/info.json")
    video = [camera for camera, found in dataset.cameras.items() if found.kind == "video"]
    tables, episodes = _episodes(source)
    steps = {"data": _files(episodes, "data")} | {camera: _files(episodes, f"videos/{camera}") for camera in video}
    (target / "meta").mkdir(parents=True)
    for name in ("stats.json", "tasks.parquet"):
        if (source / "meta" / name).is_file():
            _link(source / "meta" / name, target / "meta" / name)
    for copy in range(times):
        shift = {"episode": copy * len(dataset.episodes), "frame": copy * dataset.frames}
        for chunk, file in sorted(steps["data"]):
            moved = file + copy * _span(steps["data"])
            _write_data(
                source / _name(info["data_path"], chunk, file), target / _name(info["data_path"], chunk, moved), shift
            )
        for camera in video:
            for chunk, file in sorted(steps[camera]):
                moved = file + copy * _span(steps[camera])
                _link(
                    source / _name(info["video_path"], chunk, file, video_key=camera),
                    target / _name(info["video_path"], chunk, moved, video_key=camera),
                )
        moves = {name: copy * _span(files) for name, files in steps.items()}
        _write_episodes(tables, target / f"meta/episodes/chunk-000/file-{copy:03d}.parquet", shift, moves, copy)
    info |= {"total_episodes": times * len(dataset.episodes), "total_frames": times * dataset.frames}
    info["splits"] = {"train": f"0:{info['total_episodes']}"}
    (target / "meta/info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
    return open_dataset(target)


def _episodes(source: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The table of episodes, and the places of each in the files."""
    import pyarrow
    import pyarrow.parquet

    files = sorted((source / "meta/episodes").glob("*/*.parquet"))
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files])
    names = [name for name in table.column_names if name.endswith(("/chunk_index", "/file_index"))]
    return table, table.select(names).to_pylist()


def _files(episodes: list[dict[str, Any]], key: str) -> set[tuple[int, int]]:
    """(chunk, file) of every file that holds an episode of ``key``."""
    return {(int(row[f"{key}/chunk_index"]), int(row[f"{key}/file_index"])) for row in episodes}


def _span(files: set[tuple[int, int]]) -> int:
    """By how much the file numbers of the next copy are higher."""
    return max(file for _, file in files) + 1


def _shifted(table: Any, column: str, by: int) -> Any:
    import pyarrow.compute

    if column not in table.column_names:
        return table
    place, kind = table.column_names.index(column), table.schema.field(column)
    return table.set_column(place, kind, pyarrow.compute.add(table[column], by).cast(kind.type))


def _write_data(source: Path, target: Path, shift: dict[str, int]) -> None:
    """The frames' table with higher numbers of episodes and frames, an episode a row group as LeRobot writes it."""
    import pyarrow.parquet

    target.parent.mkdir(parents=True, exist_ok=True)
    file = pyarrow.parquet.ParquetFile(source)
    with pyarrow.parquet.ParquetWriter(target, file.schema_arrow) as writer:
        for group in range(file.num_row_groups):
            table = _shifted(file.read_row_group(group), "episode_index", shift["episode"])
            writer.write_table(_shifted(table, "index", shift["frame"]))


def _write_episodes(table: Any, target: Path, shift: dict[str, int], moves: dict[str, int], copy: int) -> None:
    import pyarrow.parquet

    table = _shifted(table, "episode_index", shift["episode"])
    for column in ("dataset_from_index", "dataset_to_index"):
        table = _shifted(table, column, shift["frame"])
    for name, by in moves.items():
        table = _shifted(table, "data/file_index" if name == "data" else f"videos/{name}/file_index", by)
    table = _shifted(table, "meta/episodes/file_index", copy)
    target.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, target)
