"""The window stage: how fast video becomes shards, and whether its peak memory grows with the dataset."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from sigma.commands.window import BASE_RECORD, DATASET, DATASET_RECORD, EPISODES, METRICS, SHARDS
from sigma.compute.workers import Workers
from sigma.data.dataset.dataset import Dataset, Episode
from sigma.data.dataset.video import Films, decode
from sigma.data.windows.cutting import Protocol
from sigma.data.windows.packing import StoredCameras, observed_steps, write_shards
from sigma.parameters.schema import PARAMS_FILE
from sigma.shared.files import read_json, read_table, write_json
from sigma.studies.benchmark.measure import Measured, NotMeasured, Side, compare, in_turn
from sigma.studies.benchmark.project import Project
from sigma.studies.benchmark.subprocesses import environment, peak_memory

# So small that few episodes fill several processes, each of which makes a whole shard.
SMALL_MIB = 4
# Every control step is a decision, so that each frame is stored and few episodes make much data.
DENSE = {"train_stride": 1, "eval_stride": 1, "shard_mib": SMALL_MIB}

Job = list[tuple[Episode, np.ndarray]]  # episodes of one shard, with the decision steps whose windows are stored


@dataclass(frozen=True)
class Plan:
    """What the window stage of a finished project wrote, ready to be written again."""

    dataset: Dataset
    view: StoredCameras
    protocol: Protocol
    windows: dict[str, np.ndarray]
    meta: dict[str, Any]

    @property
    def images(self) -> int:
        """How many images the shards hold, those of every camera counted."""
        return sum(shard["frames"] for shard in self.meta["shards"]) * len(self.view.cameras)

    def write(self, target: Path, workers: int, shard_mib: int) -> None:
        """Write the shards."""
        stored = (self.dataset, self.view, self.protocol, self.windows, self.meta)
        write_shards(target, *stored, shard_mib * 2**20, Workers(workers))

    def deliver(self, workers: int) -> int:
        """Decode and convert the images that the shards store with as many processes; returns their number."""
        shard, episodes, steps = (self.windows[name] for name in ("shard", "episode", "step"))
        jobs: list[Job] = []
        for index in range(len(self.meta["shards"])):
            here = np.unique(episodes[shard == index])
            jobs.append([(self.dataset.episodes[item], steps[(shard == index) & (episodes == item)]) for item in here])
        slim = self.dataset.for_workers()
        processes = Parallel(n_jobs=min(workers, len(jobs)))
        return sum(processes(delayed(deliver_job)(slim, self.view.cameras, self.protocol, job) for job in jobs))


def deliver_job(dataset: Dataset, cameras: Sequence[str], protocol: Protocol, job: Job) -> int:
    """Decode the images of one shard as the window stage does, keep none of them, and return their number."""
    with Films() as films:
        return sum(
            1
            for episode, steps in job
            for camera in cameras
            for _ in decode(dataset, episode, camera, observed_steps(steps, protocol).tolist(), films)
        )


def plan(project: Project) -> Plan:
    """The work of the window stage, read from ``data/shards``."""
    dataset, shards = project.dataset(), project.shards()
    table, meta = read_table(shards.folder / "windows.parquet"), shards.meta
    return Plan(
        dataset,
        StoredCameras(tuple(meta["dataset_cameras"]), meta["resolution"]),
        Protocol(**{field.name: meta[field.name] for field in fields(Protocol)}),
        {name: table[name].to_numpy() for name in table.column_names},
        meta,
    )


def _against(project: Project, shard_mib: int, peer: Callable[[Plan, Path], object]) -> Measured:
    work, workers = plan(project), project.settings.workers
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:
        target = Path(name) / "shards"
        details = {"images": work.images, "processes": workers}
        own = Side(lambda: work.write(target, workers, shard_mib), work.images, details)
        return compare(own, Side(lambda: peer(work, target), work.images), project.settings)


def measure_video_to_shards(project: Project) -> Measured:
    """An image from video to synced shards, against decoding and converting it alone."""
    shard_mib = project.parameters.window.shard_mib
    return _against(project, shard_mib, lambda work, _: work.deliver(project.settings.workers))


def measure_video_to_shards_processes(project: Project) -> Measured:
    """An image from video to synced shards with several processes, and with one.

    A process makes a whole shard, so that small shards are needed for several to have work.
    """
    return _against(project, SMALL_MIB, lambda work, target: work.write(target, 1, SMALL_MIB))


def prepare(project: Project, folder: Path, episodes: int) -> Path:
    """A project folder in which ``sigma window`` cuts the first ``episodes`` of the project's dataset.

    All of them are for training, so that the windows grow with the episodes.
    """
    (folder / DATASET).parent.mkdir(parents=True)
    (folder / DATASET).symlink_to((project.root / DATASET).resolve())
    for record in (BASE_RECORD, DATASET_RECORD):
        shutil.copyfile(project.root / record, folder / record)
    listed = read_json(project.root / EPISODES)
    write_json(folder / EPISODES, {**listed, "used": listed["used"][:episodes]})
    values = project.parameters.model_dump(mode="json")
    values["window"] |= DENSE | {"validation": 0, "test": 0}
    write_json(folder / PARAMS_FILE, values)  # JSON is YAML too
    return folder


def measure_windowing_memory(project: Project) -> Measured:
    """MiB with many episodes, and with few."""
    few, many = project.settings.memory_episodes
    if (used := len(read_json(project.root / EPISODES)["used"])) < many:
        raise NotMeasured(f"the dataset has {used} episodes, benchmark.memory_episodes asks for {many}")
    frames: dict[int, int] = {}
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:
        folders = {episodes: prepare(project, Path(name) / str(episodes), episodes) for episodes in (few, many)}

        def peak(episodes: int) -> float:
            command = (sys.executable, "-m", "sigma", "window")
            memory = peak_memory(command, folders[episodes], environment(project.settings.threads))
            frames[episodes] = read_json(folders[episodes] / METRICS)["frames"]
            shutil.rmtree(folders[episodes] / SHARDS)
            return memory

        own, peer = in_turn(lambda: peak(many), lambda: peak(few), project.settings.repetitions)
    details = [{"episodes": episodes, "frames": frames[episodes]} for episodes in (many, few)]
    return Measured(own, peer, *details)
