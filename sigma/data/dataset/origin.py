"""Bringing a LeRobotDataset into the project: from the package, a local folder, or the Hub at a pinned revision."""

import importlib.resources
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.data.dataset.dataset import CODEBASE_VERSION, Dataset, open_dataset
from sigma.data.dataset.layout import renamed
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json, write_json
from sigma.shared.hub import snapshot
from sigma.shared.sources import HUB_ID, advice, expanded, find_commit

EMBEDDED = "embedded"


def locate_dataset(source: str, revision: str | None, key: str = "fetch.dataset") -> Path:
    """The folder that holds the dataset ``source``: ``embedded``, a local folder, a dataset that LeRobot recorded here
    under a Hub id, or a snapshot of that at a commit.

    Raises :class:`SigmaError` where there is none, where a Hub id comes without a pinned revision, and where a revision
    is given for something that has none. Errors name the parameter ``key``.
    """
    folder = expanded(source)
    if source == EMBEDDED or folder.is_dir():
        if revision is not None:
            raise SigmaError(
                f"params.yaml: {key}.revision: {source!r} is a folder, only a Hub id has a revision; legal: null"
            )
        if source != EMBEDDED:
            return folder
        shipped = Path(str(importlib.resources.files("sigma") / "embedded" / "dataset"))
        if not shipped.is_dir():
            raise SigmaError(f"{shipped}: the shipped dataset is not in this installation; reinstall, or name another")
        return shipped
    if not HUB_ID.fullmatch(source):
        raise SigmaError(
            f"params.yaml: {key}.source: {source!r} is no folder here{advice(source, 'dataset')}; "
            "legal: embedded, a LeRobotDataset folder, or a Hub id such as lerobot/svla_so101_pickplace"
        )
    if revision is None:
        from lerobot.utils.constants import HF_LEROBOT_HOME

        recorded = HF_LEROBOT_HOME / source
        if (recorded / "meta" / "info.json").is_file():
            return recorded
        raise SigmaError(
            f"params.yaml: {key}.revision: {source!r} is no folder here{advice(source, 'dataset')}, was not "
            f"recorded here ({recorded}), and as a Hub id it needs a commit; legal: 40 hex digits, which "
            f"`{find_commit(source, 'dataset')}` prints"
        )
    return snapshot(source, revision, "dataset")


def find_dataset(
    source: str, revision: str | None, target: Path, keys: Mapping[str, str], key: str = "fetch.dataset"
) -> Dataset:
    """The checked dataset of ``source``, which must not be ``target``, the folder that it will be copied to; ``keys``
    are its own names of features by LeRobot's.

    Raises :class:`SigmaError` also for a file that is a link out of the dataset's folder: whatever it points to would
    be published with the dataset.
    """
    dataset = open_dataset(locate_dataset(source, revision, key), keys)
    root = dataset.root.resolve()
    if target.resolve() == root:
        raise SigmaError(f"params.yaml: {key}.source: {source!r} is the folder that fetch writes; name another")
    # The Hub's cache keeps a snapshot's files beside the snapshots.
    home = root.parents[1] if root.parent.name == "snapshots" else root
    for name in dataset.files():
        if not (dataset.root / name).resolve().is_relative_to(home):
            raise SigmaError(
                f"{dataset.root}/{name}: a link that leaves the dataset's folder; put the file itself in its place"
            )
    return dataset


def copy_dataset(dataset: Dataset, folder: Path, keys: Mapping[str, str]) -> None:
    """Copy a dataset's metadata and the files that it names, and no other file, into an empty folder; the features
    whose own names are the values of ``keys`` get LeRobot's.
    """
    for name in dataset.files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.root / name, folder / name)
    if keys:
        _rename(folder, {own: name for name, own in keys.items()})


def _rename(folder: Path, names: Mapping[str, str]) -> None:
    """Give features new ``names`` in the metadata and in every table of a dataset."""
    import pyarrow.parquet as parquet

    info, stats = folder / "meta" / "info.json", folder / "meta" / "stats.json"
    described = read_json(info)
    write_json(info, described | {"features": renamed(described["features"], names)})
    if stats.is_file() and isinstance(stored := read_json(stats), dict):
        write_json(stats, renamed(stored, names))
    for path in folder.rglob("*.parquet"):
        old = parquet.read_schema(path).names
        # In the episodes' table a name is a part of others, as in stats/state/min.
        new = ["/".join(names.get(part, part) for part in column.split("/")) for column in old]
        if new != old:
            part = path.with_suffix(".part")
            with (
                parquet.ParquetFile(path) as table,
                parquet.ParquetWriter(
                    part, table.schema_arrow.remove_metadata().empty_table().rename_columns(new).schema
                ) as writer,
            ):
                for batch in table.iter_batches():
                    writer.write_batch(batch.rename_columns(new).replace_schema_metadata(None))
            part.replace(path)


def describe_dataset(folder: Path, source: str, revision: str | None) -> dict[str, Any]:
    """The record of a fetched dataset: where it came from, the digest of its content, and what it holds."""
    dataset = open_dataset(folder)
    return {
        "source": source,
        "revision": revision,
        "digest": digest_folder(folder),
        "codebase_version": CODEBASE_VERSION,
        "episodes": len(dataset.episodes),
        "frames": dataset.frames,
        "fps": dataset.fps,
        "robot_type": dataset.robot_type,
        "joint_names": list(dataset.joint_names),
        "cameras": {key: [camera.height, camera.width] for key, camera in dataset.cameras.items()},
        "tasks": list(dict.fromkeys(dataset.tasks)),
    }
