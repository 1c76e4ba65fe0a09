"""Joining further datasets of the same robot to the dataset: their episodes follow its own and are trained on alone.

In some of them a policy acted and a person took over where it went wrong; LeRobot's ``dagger`` strategy marks the
person's frames in the column ``intervention``.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sigma.data.dataset.columns import read_rows, vector
from sigma.data.dataset.dataset import INTERVENTION, Dataset, open_dataset
from sigma.data.dataset.fit import choose_cameras
from sigma.data.dataset.layout import ACTION, STATE
from sigma.parameters import Parameters
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json

_ALWAYS = (STATE, ACTION, "timestamp", "frame_index", "episode_index", "index", "task_index")


def check_corrections(dataset: Dataset, key: str, corrections: bool) -> None:
    """Raise :class:`SigmaError`, which names the parameter ``key``, where a dataset that should hold corrections holds
    none, or one of demonstrations does."""
    corrected = total = 0
    if dataset.intervenes:
        own = [episode.index for episode in dataset.episodes]
        # Of the tables this column alone: fetch.dataset.keys may name the others.
        for path in dict.fromkeys(dataset.root / episode.table for episode in dataset.episodes):
            table = read_rows(path, [INTERVENTION])
            marked = vector(table, INTERVENTION, np.bool_, path)
            marked = marked[np.isin(vector(table, "episode_index", np.int64, path), own)]
            corrected, total = corrected + int(marked.sum()), total + len(marked)
    if corrections and not dataset.intervenes:
        raise SigmaError(
            f"params.yaml: {key}: {dataset.root} has no column {INTERVENTION!r} of dtype bool; legal: what "
            "`lerobot-rollout --strategy.type=dagger` records, or corrections: false for demonstrations"
        )
    if corrections and not corrected:
        raise SigmaError(
            f"params.yaml: {key}: {INTERVENTION!r} is true in none of {total} frames of {dataset.root}: nobody took "
            "over, and what a policy did alone is no demonstration; leave the dataset out"
        )
    if corrected and not corrections:
        share = "every frame" if corrected == total else f"{corrected} of {total} frames"
        raise SigmaError(
            f"params.yaml: {key}: {dataset.root} holds corrections ({INTERVENTION!r} is true in {share}); legal here: "
            "demonstrations; name this dataset in fetch.further with corrections: true"
        )


def check_joins(dataset: Dataset, other: Dataset, key: str, base: Mapping[str, Any], parameters: Parameters) -> None:
    """Raise :class:`SigmaError`, which names the parameter ``key``, where ``other`` is of another robot, rate or camera
    than ``dataset``."""
    facts: dict[str, tuple[object, object]] = {
        "robot_type": (dataset.robot_type, other.robot_type),
        "joints": (", ".join(dataset.joint_names), ", ".join(other.joint_names)),
        "fps": (dataset.fps, other.fps),
    }
    for camera in choose_cameras(base, dataset, parameters.window.cameras).values():
        facts[f"camera {camera}"] = (dataset.cameras[camera], other.cameras.get(camera))
    for name, (own, found) in facts.items():
        if own != found:
            raise SigmaError(
                f"params.yaml: {key}: {other.root}: {name}: found {found}; legal: {own}, as {dataset.root}"
            )


def further_episodes(record: Mapping[str, Any]) -> tuple[range, frozenset[int]]:
    """The episodes that were joined to the dataset's own, and those of them in which a policy acted and was corrected.

    ``record`` is that of ``data/dataset.json``.
    """
    first = own = record["episodes"] - sum(entry["episodes"] for entry in record["further"])
    corrected: set[int] = set()
    for entry in record["further"]:
        if entry["corrections"]:
            corrected.update(range(first, first + entry["episodes"]))
        first += entry["episodes"]
    return range(own, record["episodes"]), frozenset(corrected)


def join(folders: Sequence[Path], target: Path) -> None:
    """Write one dataset of all ``folders`` into the empty folder ``target`` by LeRobot's own aggregation, video files
    byte by byte.

    The folders, copies made for this, lose the features that not all of them have; frames of those without corrections
    are marked as no intervention. Raises :class:`SigmaError` where LeRobot cannot join them.
    """
    from lerobot.datasets.aggregate import aggregate_datasets

    cameras = [open_dataset(folder).cameras for folder in folders]
    shared = [key for key, camera in cameras[0].items() if all(other.get(key) == camera for other in cameras)]
    for folder in folders:
        _align(folder, {*_ALWAYS, *shared})
    if target.is_dir():
        target.rmdir()  # LeRobot makes it itself
    names = [f"joined/{number}" for number in range(len(folders))]
    # LeRobot draws bars that no terminal option of ours reaches.
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            aggregate_datasets(
                names, "joined/all", list(folders), target, concatenate_videos=False, concatenate_data=False
            )
    except Exception as error:  # LeRobot lets through whatever a file that is not as it writes them raises
        reason = " ".join(str(error).split())[:300]
        raise SigmaError(f"params.yaml: fetch.further: LeRobot cannot join the datasets ({reason})") from error


def _align(folder: Path, kept: set[str]) -> None:
    """Leave the features ``kept`` and :data:`INTERVENTION` in a dataset's metadata and tables, the latter as False
    where it was not."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as parquet

    info, stats = folder / "meta" / "info.json", folder / "meta" / "stats.json"
    described = read_json(info)
    column = {"dtype": "bool", "shape": [1], "names": None}
    features = {name: feature for name, feature in described["features"].items() if name in kept}
    write_json(info, described | {"features": features | {INTERVENTION: column}})
    if stats.is_file():
        write_json(stats, {name: value for name, value in read_json(stats).items() if name in kept})
    for path in folder.glob("data/*/*.parquet"):
        table = parquet.read_table(path).replace_schema_metadata(None)
        marked = INTERVENTION in described["features"]
        mark = table[INTERVENTION] if marked else pa.array(np.zeros(table.num_rows, dtype=bool))
        table = table.select([name for name in table.column_names if name in kept])
        parquet.write_table(table.append_column(INTERVENTION, mark), path)
    for path in folder.glob("meta/episodes/*/*.parquet"):
        table = parquet.read_table(path).replace_schema_metadata(None)
        table = table.select([name for name in table.column_names if _feature(name) in {None, *kept}])
        parquet.write_table(table, path)


def _feature(column: str) -> str | None:
    """The feature that a column of ``meta/episodes`` is about, as stats/action/min is; None where it is about none."""
    parts = column.split("/")
    return parts[1] if parts[0] in ("stats", "videos") else None
