"""Frames into training: our shards against LeRobot's dataset in a DataLoader, with the same windows and processes.

Legend: B batch, M history, V cameras, S resolution, Tc the base's chunk size, D joints.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sigma.commands.window import DATASET
from sigma.data.shards import Shards
from sigma.studies.benchmark.kept_record import Measured
from sigma.studies.benchmark.lerobot_data import dataset_rows, open_lerobot, usable_backends
from sigma.studies.benchmark.measure import alternate, seconds_each, split
from sigma.studies.benchmark.project import Project, train_windows
from sigma.training.sampler import WindowSampler

# LeRobot's trainer has these by default.
PREFETCH, START_METHOD = 4, "spawn"


def read_windows(shards: Shards, windows: np.ndarray) -> dict[str, Tensor]:
    """What LeRobot's item holds, of B windows at once.

    Returns:
        ``images`` uint8 (B, M, V, 3, S, S) and ``state`` (B, M, D), oldest first, where ``present`` (B, M) holds, else
        the decision's own; ``action`` (B, Tc, D) in raw units, and ``valid`` (B, Tc).
    """
    frames = shards.window_frames[windows]
    present = frames >= 0
    seen = np.where(present, frames, frames[:, -1:])
    images = shards.images(seen.ravel())
    return {
        "images": images.unflatten(0, seen.shape),
        "state": torch.from_numpy(shards.frame_state[seen]),
        "present": torch.from_numpy(present),
        "action": torch.from_numpy(shards.window_action[windows]),
        "valid": torch.from_numpy(shards.window_valid[windows]),
    }


class ShardWindows(Dataset):
    """The shards' windows for a DataLoader, a whole batch at a time; each process maps the files for itself."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self._shards: Shards | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_shards": None}

    @property
    def shards(self) -> Shards:
        if self._shards is None:
            self._shards = Shards.open(self.folder, verify=False)
        return self._shards

    def __len__(self) -> int:
        return len(self.shards.window_step)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        return read_windows(self.shards, np.asarray(rows))


def unchanged(batch: Any) -> Any:
    """Collate what is a batch already."""
    return batch


class Stream:
    """Batches of ``ids`` in a seeded order; a reading of ``count`` batches goes on where the last one ended."""

    def __init__(self, ids: np.ndarray, batch: int, count: int, seed: int = 0):
        self.ids, self.count, self.turn = ids, count, 0
        self.sampler = WindowSampler(len(ids), batch, seed)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.count):
            rows = self.sampler.rows(self.turn)
            self.turn += 1
            yield self.ids[rows].tolist()


def new_loader(dataset: Dataset, stream: Stream, workers: int) -> DataLoader:
    """A DataLoader over the stream, with the settings of LeRobot's trainer."""
    options: dict[str, Any] = {}
    if isinstance(dataset, ShardWindows):
        options["collate_fn"] = unchanged
    if workers:
        options |= {
            "prefetch_factor": PREFETCH,
            "persistent_workers": True,
            "multiprocessing_context": START_METHOD,
        }
    return DataLoader(dataset, batch_sampler=stream, num_workers=workers, **options)


def rate(loader: DataLoader) -> float:
    """Windows a second over one reading of the loader, its first batch included."""
    started, windows = time.perf_counter(), 0
    for batch in loader:
        windows += len(batch["action"])
    return windows / (time.perf_counter() - started)


def _own_loader(project: Project, shards: Shards, workers: int, batches: int) -> DataLoader:
    """Ours, with as many batches a reading as take the least time of a round, at least as many as the peer's."""
    batch = project.parameters.train.batch
    stream = Stream(train_windows(shards), batch, batches)
    loader = new_loader(ShardWindows(shards.folder), stream, workers)
    found = 0.0
    for _ in range(2):  # the first reading starts the processes and maps the files
        found = rate(loader)
    stream.count = max(batches, math.ceil(found * project.effort.seconds / batch))
    return loader


def _against_lerobot(project: Project, workers: int) -> Measured:
    shards, folder = project.shards(), project.root / DATASET
    batch = project.parameters.train.batch
    batches = max(1, round(project.settings.loading.windows / batch))
    own = _own_loader(project, shards, workers, batches)
    backends, faults = usable_backends(folder, shards.meta)
    rates, loaders = {}, {}
    for backend in backends:
        dataset = open_lerobot(folder, backend, shards.meta)
        stream = Stream(dataset_rows(dataset, shards, train_windows(shards)), batch, batches)
        loaders[backend] = new_loader(dataset, stream, workers)
        rates[backend] = max(rate(loaders[backend]) for _ in range(2))
    better = max(rates, key=rates.__getitem__)
    values = alternate({"own": lambda: rate(own), "peer": lambda: rate(loaders[better])}, project.effort)
    told = {"workers": workers, "batch": batch}
    return Measured(
        values["own"],
        values["peer"],
        {**told, "split": _parts(project, shards)},
        {**told, "video_backend": better, "backends": rates, "backends_that_fail": faults},
    )


def _parts(project: Project, shards: Shards) -> dict[str, float]:
    """Seconds of a batch by part, in one process."""
    rows = train_windows(shards)[: project.parameters.train.batch]
    places = [(Shards, "images", "images")]
    return split(lambda: read_windows(shards, rows), places, "states and actions", calls=3)


def loading(project: Project) -> Measured:
    """Windows a second with loader processes on both sides."""
    return _against_lerobot(project, project.settings.workers)


def loading_in_process(project: Project) -> Measured:
    """Windows a second in the training process itself."""
    return _against_lerobot(project, 0)


def loading_of_memory_copy(project: Project) -> Measured:
    """GiB/s of window reading, and of a copy of the same batches from memory into memory, each by one process."""
    shards, batch = project.shards(), project.parameters.train.batch
    count = max(2, round(project.settings.loading.windows / batch))
    batches = [np.asarray(rows) for rows in Stream(train_windows(shards), batch, count)]
    sources = [read_windows(shards, rows) for rows in batches]
    targets = [torch.empty_like(tensor) for tensor in sources[0].values()]
    moved = sum(tensor.nbytes for source in sources for tensor in source.values())

    def read() -> None:
        for rows in batches:
            read_windows(shards, rows)

    def copy() -> None:
        for source in sources:
            for target, tensor in zip(targets, source.values(), strict=True):
                target.copy_(tensor)

    least = project.effort.seconds
    sides = {
        "own": lambda: moved / 2**30 / seconds_each(read, least),
        "peer": lambda: moved / 2**30 / seconds_each(copy, least),
    }
    values = alternate(sides, project.effort)
    told = {"bytes_a_window": moved // (len(batches) * batch)}
    return Measured(values["own"], values["peer"], {**told, "split": _parts(project, shards)}, told)


FIGURES: dict[str, Callable[[Project], Measured]] = {
    "loading": loading,
    "loading_in_process": loading_in_process,
    "loading_of_memory_copy": loading_of_memory_copy,
}
