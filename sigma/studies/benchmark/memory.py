"""Peak memory of the window stage as the dataset grows: a fresh process, its children included."""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sigma.commands.finetune import FEATURES
from sigma.commands.window import BASE_RECORD, DATASET, DATASET_RECORD, EPISODES, SHARDS
from sigma.data.shards import Shards
from sigma.parameters.schema import PARAMS_FILE
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json, write_json
from sigma.studies.benchmark.copies import repeat_dataset
from sigma.studies.benchmark.kept_record import Measured, summary
from sigma.studies.benchmark.measure import alternate
from sigma.studies.benchmark.project import Project
from sigma.studies.benchmark.several_processes import Usage, environment, usage_of

SPARE = 1.2  # shards of the longest dataset need this much of their size on the disk, at the least
COMMAND = (sys.executable, "-m", "sigma", "window")


def prepare(project: Project, folder: Path, times: int) -> Path:
    """A project folder in which ``sigma window`` cuts the first episodes ``times`` times over, by the same parameters.

    The shares of validation and test stay, so that every part of the dataset grows alike; shards are as small as the
    settings say, so that already the smallest dataset keeps all processes busy.
    """
    from ruamel.yaml import YAML

    (folder / DATASET).parent.mkdir(parents=True)
    whole = len(repeat_dataset(project.root / DATASET, folder / DATASET, times).episodes) // times
    shutil.copyfile(project.root / BASE_RECORD, folder / BASE_RECORD)
    record = read_json(project.root / DATASET_RECORD) | {"digest": digest_folder(folder / DATASET)}
    write_json(folder / DATASET_RECORD, record)
    listed, settings = read_json(project.root / EPISODES), project.settings.windowing
    first = listed["used"][: settings.episodes]
    write_json(
        folder / EPISODES, {**listed, "used": [index + copy * whole for copy in range(times) for index in first]}
    )
    values: dict[str, Any] = {name: section.model_dump(mode="json") for name, section in project.parameters.items()}
    values["machine"] |= {"workers": project.settings.workers, "backend": "local", "address": None}
    values["window"]["shard_mib"] = settings.shard_mib
    for part in ("validation", "test"):
        count = values["window"][part]
        if isinstance(count, int) and count:
            values["window"][part] = round(count / len(listed["used"]), 3)
    with (folder / PARAMS_FILE).open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(values, file)
    return folder


def check_space(folder: str, project: Project) -> None:
    """Raise :class:`SigmaError` where the shards of the longest dataset would not fit."""
    settings, shards = project.settings.windowing, project.shards().meta
    share = min(1.0, settings.episodes / sum(map(len, shards["splits"].values())))
    needed = SPARE * share * max(settings.copies) * sum(shard["bytes"] for shard in shards["shards"])
    if (free := shutil.disk_usage(folder).free) < needed:
        raise SigmaError(
            f"benchmark: windowing_memory: {needed / 2**30:.1f} GiB are needed in {folder}, {free / 2**30:.1f} are "
            "free; set TMPDIR, or lower benchmark.windowing.copies"
        )


def _sizes(shards: Shards, project: Project) -> dict[str, float]:
    """What a run of ``sigma window`` wrote, what of it later stages hold in memory, and the features they map."""
    records, features = shards.meta["shards"], read_json(project.root / FEATURES / "meta.json")
    arrays = (getattr(shards, name) for name in vars(shards))
    frames = sum(record["frames"] for record in records)
    return {
        "shards": len(records),
        "frames": frames,
        "windows": len(shards.window_step),
        "disk_mib": sum(record["bytes"] for record in records) / 2**20,
        "index_mib": sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)) / 2**20,
        "features_mib": frames * features["pools"] * features["width"] * 4 / 2**20,
    }


def windowing_memory(project: Project) -> Measured:
    """MiB with the episodes as often as ``copies`` says last, against once; time, frames and disk of each beside it.

    Every run is a fresh process, so that no round has to go before.
    """
    copies, threads = project.settings.windowing.copies, project.settings.threads
    usages: dict[int, list[Usage]] = {times: [] for times in copies}
    sizes: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:
        check_space(name, project)
        folders = {times: prepare(project, Path(name) / str(times), times) for times in copies}

        def measure(times: int) -> float:
            usage = usage_of(COMMAND, folders[times], environment(threads))
            usages[times].append(usage)
            sizes[times] = _sizes(Shards.open(folders[times] / SHARDS, verify=False), project)
            shutil.rmtree(folders[times] / SHARDS)
            return usage.peak

        sides = {str(times): (lambda times=times: measure(times)) for times in copies}
        values = alternate(sides, replace(project.effort, warm_up=0))
    told = {
        str(times): {
            "episodes": times * project.settings.windowing.episodes,
            "mib": summary(values[str(times)]),
            "mib_of_the_first_process": summary([usage.first for usage in usages[times]]),
            "seconds": summary([usage.seconds for usage in usages[times]]),
            **sizes[times],
        }
        for times in copies
    }
    last, first = str(copies[-1]), str(copies[0])
    return Measured(values[last], values[first], {"copies": copies[-1], "by_copies": told}, {"copies": copies[0]})
