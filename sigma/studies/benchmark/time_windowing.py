"""The window stage: how fast video becomes shards, and whether its peak memory grows with the dataset."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from sigma.compute.workers import Workers
from sigma.data.dataset.dataset import Dataset, Episode
from sigma.data.dataset.video import Films, decode
from sigma.data.windows.candidates import Filter, candidate_windows
from sigma.data.windows.cutting import Protocol
from sigma.data.windows.packing import StoredCameras, observed_steps, write_shards
from sigma.shared.files import read_table
from sigma.studies.benchmark.measure import Measured, Side, compare
from sigma.studies.benchmark.project import Project
from sigma.studies.benchmark.windowing_memory import SMALL_MIB, windowing_memory

Job = list[tuple[Episode, np.ndarray]]  # episodes of one shard, with the decision steps whose windows are stored

_PROTOCOL = ("horizon", "chunk_size", "history", "history_stride", "train_stride", "eval_stride", "trace")
_OWN_META = ("shards", "format_version", "windows_sha256")  # what writing adds


@dataclass(frozen=True)
class Plan:
    """What the window stage of a finished project wrote, ready to be written again."""

    dataset: Dataset
    view: StoredCameras
    protocol: Protocol
    windows: dict[str, np.ndarray]
    meta: dict[str, Any]
    jobs: list[Job]
    images: int  # that the shards hold, those of every camera counted

    def write(self, target: Path, workers: int, shard_mib: int) -> None:
        """Write the shards."""
        stored = (self.dataset, self.view, self.protocol, self.windows, self.meta)
        write_shards(target, *stored, shard_mib * 2**20, Workers(workers))

    def deliver(self, workers: int) -> int:
        """Decode and convert the images that the shards store with as many processes; returns their number."""
        dataset = self.dataset.for_workers()
        jobs = (delayed(deliver_job)(dataset, self.view.cameras, self.protocol, job) for job in self.jobs)
        return sum(Parallel(n_jobs=min(workers, len(self.jobs)))(jobs))


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
    """The work of the window stage, reconstructed from ``data/shards``."""
    dataset, shards, section = project.dataset(), project.shards(), project.parameters.window
    meta = shards.meta
    protocol = Protocol(**{name: meta[name] for name in _PROTOCOL})
    limits = Filter(section.min_action_norm, section.min_motion)
    table = read_table(shards.folder / "windows.parquet", ["shard", "episode", "step"])
    shard, episode, step = (table[name].to_numpy() for name in ("shard", "episode", "step"))
    jobs: list[Job] = []
    for index in range(len(meta["shards"])):
        here = shard == index
        jobs.append(
            [(dataset.episodes[number], step[here & (episode == number)]) for number in np.unique(episode[here])]
        )
    return Plan(
        dataset,
        StoredCameras(tuple(meta["dataset_cameras"]), meta["resolution"]),
        protocol,
        candidate_windows(dataset, meta["splits"], protocol, limits, meta["statistics"]),
        {name: value for name, value in meta.items() if name not in _OWN_META},
        jobs,
        sum(shard["frames"] for shard in meta["shards"]) * len(meta["dataset_cameras"]),
    )


def _against(project: Project, shard_mib: int, peer: Callable[[Plan, Path], object]) -> Measured:
    work, workers = plan(project), project.settings.workers
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:
        target = Path(name) / "shards"
        details = {"images": work.images, "processes": workers}
        own = Side(lambda: work.write(target, workers, shard_mib), work.images, details)
        return compare(own, Side(lambda: peer(work, target), work.images), project.settings)


def video_to_shards(project: Project) -> Measured:
    """An image from video to synced shards, against decoding and converting it alone."""
    shard_mib = project.parameters.window.shard_mib
    return _against(project, shard_mib, lambda work, _: work.deliver(project.settings.workers))


def video_to_shards_processes(project: Project) -> Measured:
    """An image from video to synced shards with several processes, and with one.

    A process makes a whole shard, so that small shards are needed for several to have work.
    """
    return _against(project, SMALL_MIB, lambda work, target: work.write(target, 1, SMALL_MIB))


FIGURES: dict[str, Callable[[Project], Measured]] = {
    "video_to_shards": video_to_shards,
    "video_to_shards_processes": video_to_shards_processes,
    "windowing_memory": windowing_memory,
}
