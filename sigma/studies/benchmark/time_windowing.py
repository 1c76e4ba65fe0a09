"""Video to shards against the decode limit: every video file read once from its beginning to its end, nothing kept.

Legend: W windows.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.compute.workers import Workers
from sigma.data.dataset.dataset import Dataset, Episode
from sigma.data.dataset.video import Films, decode
from sigma.data.windows import packing
from sigma.data.windows.candidates import Filter, candidate_windows
from sigma.data.windows.cutting import Protocol
from sigma.data.windows.packing import StoredCameras, observed_steps, write_shards
from sigma.shared.files import read_table
from sigma.studies.benchmark.kept_record import Measured, NotMeasured
from sigma.studies.benchmark.measure import alternate, seconds_each, split
from sigma.studies.benchmark.memory import windowing_memory
from sigma.studies.benchmark.project import Project

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
    budget: int
    jobs: list[Job]

    @property
    def stored_frames(self) -> int:
        """Frames that the shards hold, each with the images of every camera."""
        return sum(len(observed_steps(steps, self.protocol)) for job in self.jobs for _, steps in job)

    def files(self) -> list[Path]:
        """The video files of the cameras that are stored."""
        found = {
            self.dataset.root / episode.videos[camera].path
            for job in self.jobs
            for episode, _ in job
            for camera in self.view.cameras
            if self.dataset.cameras[camera].kind == "video"
        }
        if not found:
            raise NotMeasured("the dataset stores images, no videos: there is no decode limit")
        return sorted(found)

    def write(self, target: Path, workers: int) -> None:
        """Write the shards."""
        crew = Workers(workers)
        write_shards(target, self.dataset, self.view, self.protocol, self.windows, self.meta, self.budget, crew)

    def decode(self, workers: int) -> int:
        """Decode every file once with as many processes, and return how many video frames there were."""
        from joblib import Parallel, delayed

        files = [file.resolve() for file in self.files()]
        return sum(Parallel(n_jobs=min(workers, len(files)))(delayed(decode_file)(file) for file in files))

    def deliver(self, workers: int) -> int:
        """Decode and convert the images that the shards store with as many processes; returns their number."""
        from joblib import Parallel, delayed

        slim = self.dataset.for_workers()
        jobs = (delayed(deliver_job)(slim, self.view.cameras, self.protocol, job) for job in self.jobs)
        return sum(Parallel(n_jobs=min(workers, len(self.jobs)))(jobs))


def decode_file(file: Path) -> int:
    """Decode a whole file with the decoder's own settings, convert and keep nothing, and return its frames."""
    import av

    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(container.streams.video[0]))


def deliver_job(dataset: Dataset, cameras: Sequence[str], protocol: Protocol, job: Job) -> int:
    """Decode the frames of one shard as the window stage does, keep none of them, and return their number."""
    with Films() as films:
        return sum(
            1
            for episode, steps in job
            for camera in cameras
            for _ in decode(dataset, episode, camera, observed_steps(steps, protocol).tolist(), films)
        )


def plan(project: Project) -> Plan:
    """The work of the window stage, as ``data/shards`` tells it."""
    dataset, shards, section = project.dataset(), project.shards(), project.parameters.window
    meta = shards.meta
    protocol = Protocol(**{name: meta[name] for name in _PROTOCOL})
    limits = Filter(section.min_action_norm, section.min_motion)
    table = read_table(shards.folder / "windows.parquet", ["shard", "episode", "step"])
    shard, episode, step = (table[name].to_numpy() for name in ("shard", "episode", "step"))
    jobs: list[Job] = []
    for index in range(len(meta["shards"])):
        here = shard == index
        jobs.append([(dataset.episodes[item], step[here & (episode == item)]) for item in np.unique(episode[here])])
    return Plan(
        dataset,
        StoredCameras(tuple(meta["dataset_cameras"]), meta["resolution"]),
        protocol,
        candidate_windows(dataset, meta["splits"], protocol, limits, meta["statistics"]),
        {name: value for name, value in meta.items() if name not in _OWN_META},
        section.shard_mib * 2**20,
        jobs,
    )


def _parts(work: Plan, target: Path) -> dict[str, float]:
    """Seconds of writing by part, all in one process; ``decode`` has the limit taken out of it."""
    places = [
        (packing, "decode", "open, seek and convert"),
        (packing, "to_resolution", "resize"),
        (packing, "write_shard", "write and digest"),
        (Dataset, "read_each", "read tables"),
    ]
    parts = split(lambda: work.write(target, 1), places, "cut, join and sync")
    limit = seconds_each(lambda: [decode_file(file) for file in work.files()], 0)
    return {"decode limit": limit, **parts, places[0][2]: parts[places[0][2]] - limit}


def _measure(project: Project, peer: Callable[[Plan, int], int]) -> Measured:
    work, workers = plan(project), project.settings.workers
    files, frames = work.files(), sum(decode_file(file) for file in work.files())
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:
        target = Path(name) / "shards"

        def rate(run: Callable[[], Any]) -> float:
            started = time.perf_counter()
            run()
            return frames / (time.perf_counter() - started)

        sides = {
            "own": lambda: rate(lambda: work.write(target, workers)),
            "peer": lambda: rate(lambda: peer(work, workers)),
        }
        values = alternate(sides, project.effort)
        told = {"frames": frames, "files": len(files), "processes": workers}
        own = {"stored_frames": work.stored_frames, "split": _parts(work, target)}
    return Measured(values["own"], values["peer"], {**told, **own}, told)


def windowing(project: Project) -> Measured:
    """Frames of the video files a second: ours from video to synced shards, the peer's decoded alone."""
    return _measure(project, Plan.decode)


def windowing_of_wanted_frames(project: Project) -> Measured:
    """The same against the reading and converting of the stored images by our own decoder."""
    return _measure(project, Plan.deliver)


FIGURES: dict[str, Callable[[Project], Measured]] = {
    "windowing": windowing,
    "windowing_of_wanted_frames": windowing_of_wanted_frames,
    "windowing_memory": windowing_memory,
}
