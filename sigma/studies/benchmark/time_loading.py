"""Windows into training: our shards against LeRobot's dataset in a DataLoader, with the same windows and processes.

Legend: B batch, L trace, V cameras, S resolution, Tc the base's chunk size, D joints.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sigma.commands.window import DATASET
from sigma.data.dataset.dataset import ACTION, STATE
from sigma.data.shards import Shards
from sigma.studies.benchmark.measure import Measured, NotMeasured, Side, compare, seconds_once
from sigma.studies.benchmark.project import Project, train_windows

# The defaults of LeRobot's trainer.
PREFETCH, START_METHOD = 4, "spawn"
BACKENDS = ("torchcodec", "pyav")


def read_windows(shards: Shards, windows: np.ndarray) -> dict[str, Tensor]:
    """What LeRobot's item holds, of B windows at once.

    Returns:
        ``images`` uint8 (B, V, 3, S, S); ``state`` (B, L + 1, D), oldest first; ``action`` (B, Tc, D) in raw units, and
        ``valid`` (B, Tc).
    """
    frames = shards.window_frame[windows]
    states = np.concatenate([shards.frame_trace[frames], shards.frame_state[frames][:, None]], axis=1)
    return {
        "images": shards.images(frames),
        "state": torch.from_numpy(states),
        "action": torch.from_numpy(shards.window_action[windows]),
        "valid": torch.from_numpy(shards.window_valid[windows]),
    }


@cache
def _open_shards(folder: Path) -> Shards:
    """The shards of a folder, opened once in each loader process."""
    return Shards.open(folder, verify=False)


class ShardWindows(Dataset):
    """The shards' windows for a DataLoader, a whole batch at a time.

    It holds the folder alone: sent to a loader process, opened shards would be copied with all their arrays.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        return read_windows(_open_shards(self.folder), np.asarray(rows))


def deltas(meta: Mapping[str, Any]) -> dict[str, list[float]]:
    """``delta_timestamps`` that give LeRobot's items the shards' windows: a picture of now, L + 1 states, Tc actions,
    in seconds."""
    before = [-index / meta["fps"] for index in reversed(range(meta["trace"] + 1))]
    ahead = [index / meta["fps"] for index in range(meta["chunk_size"])]
    return {**{camera: [0.0] for camera in meta["dataset_cameras"]}, STATE: before, ACTION: ahead}


def open_lerobot(root: Path, backend: str, meta: Mapping[str, Any]) -> LeRobotDataset:
    """The folder as LeRobot's trainer opens it, with uint8 images and the windows of the shards' ``meta``."""
    return LeRobotDataset(
        "local/benchmark", root=root.resolve(), delta_timestamps=deltas(meta), video_backend=backend, return_uint8=True
    )


def dataset_rows(dataset: LeRobotDataset, shards: Shards, windows: np.ndarray) -> np.ndarray:
    """LeRobot's indices of the decision frames of ``windows``, int64 [B]."""
    starts = np.asarray(list(dataset.meta.episodes["dataset_from_index"]), dtype=np.int64)
    return starts[shards.window_episode[windows]] + shards.window_step[windows]


def unchanged(batch: Any) -> Any:
    """The collate function of what is a batch already; a loader process could not be sent a lambda."""
    return batch


def new_loader(dataset: Dataset, rows: list[int], batch: int, workers: int) -> DataLoader:
    """A DataLoader with the settings of LeRobot's trainer; each reading gives ``rows`` as they are when it begins."""
    options: dict[str, Any] = {}
    if isinstance(dataset, ShardWindows):
        options["collate_fn"] = unchanged
    if workers:
        options |= {"prefetch_factor": PREFETCH, "persistent_workers": True, "multiprocessing_context": START_METHOD}
    return DataLoader(dataset, batch, sampler=rows, num_workers=workers, **options)


def reading_side(dataset: Dataset, rows: np.ndarray, batch: int, workers: int, seconds: float) -> Side:
    """Readings of a new loader that take about ``seconds`` each, the filling of its empty queue included.

    A reading takes as many of ``rows``, again from the first where there are fewer.
    """
    trial = 2 * PREFETCH * max(1, workers) * batch  # more than what is prefetched
    chosen = np.resize(rows, trial).tolist()
    loader = new_loader(dataset, chosen, batch, workers)

    def read() -> None:
        for _ in loader:
            pass

    read()  # starts the processes and maps the files
    count = batch * max(1, round(trial * seconds / seconds_once(read) / batch))
    chosen[:] = np.resize(rows, count).tolist()
    return Side(read, count, {"workers": workers, "batch": batch, "windows": count})


def lerobot_side(project: Project, shards: Shards, windows: np.ndarray, workers: int) -> Side:
    """LeRobot's loader with the faster of its video backends that work here.

    Each is tried, because one that is installed may still lack its libraries; ``backends_that_fail`` has the reasons.
    Raises :class:`NotMeasured` where none works.
    """
    folder, batch = project.root / DATASET, project.parameters.train.batch
    sides: dict[str, Side] = {}
    faults: dict[str, str] = {}
    for backend in BACKENDS:
        try:
            dataset = open_lerobot(folder, backend, shards.meta)
            dataset[0]  # fails here rather than in a loader process
            rows = dataset_rows(dataset, shards, windows)
            sides[backend] = reading_side(dataset, rows, batch, workers, project.settings.seconds)
        except (ImportError, OSError, RuntimeError) as error:
            faults[backend] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    if not sides:
        raise NotMeasured(f"LeRobot decodes {folder} with none of {', '.join(BACKENDS)} here")
    rates = {backend: side.amount / seconds_once(side.work) for backend, side in sides.items()}
    faster = max(rates, key=rates.__getitem__)
    details = {"video_backend": faster, "backends": rates, "backends_that_fail": faults}
    return replace(sides[faster], details={**sides[faster].details, **details})


def _against_lerobot(project: Project, workers: int) -> Measured:
    shards, batch = project.shards(), project.parameters.train.batch
    # In a random order: LeRobot must seek in its videos, as it must when it trains.
    windows = np.random.default_rng(0).permutation(train_windows(shards))
    own = reading_side(ShardWindows(shards.folder), windows, batch, workers, project.settings.seconds)
    return compare(own, lerobot_side(project, shards, windows, workers), project.settings)


def measure_loading(project: Project) -> Measured:
    """A window with loader processes on both sides."""
    return _against_lerobot(project, project.settings.workers)


def measure_loading_in_process(project: Project) -> Measured:
    """A window in the training process itself."""
    return _against_lerobot(project, 0)
