"""Making shards: which episodes share one, and the decoded and resized content of each.

Legend as in :mod:`sigma.data.shards`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from sigma.compute.workers import Workers
from sigma.data.dataset.dataset import Dataset, Episode, Rows
from sigma.data.dataset.video import Films, decode
from sigma.data.shards import write_index, write_shard
from sigma.data.windows.candidates import stored_windows
from sigma.data.windows.cutting import Protocol, memory_steps, shift_ends, targets, trace_states
from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_directory
from sigma.shared.resize import to_resolution


@dataclass(frozen=True)
class StoredCameras:
    """The dataset's cameras that are stored, in the base's order, and the base's resolution."""

    cameras: tuple[str, ...]
    resolution: int


def observed_steps(steps: np.ndarray, protocol: Protocol) -> np.ndarray:
    """The steps of an episode that any of its windows observes, once each and in order, int64.

    All that memory reads before the last decision are among them, whatever windows the filter left out.
    """
    return np.union1d(steps, memory_steps(int(steps.max(initial=0)), protocol.memory_stride))


def group_episodes(sizes: dict[int, int], budget: int) -> list[list[int]]:
    """Put episodes, in order, into shards of even size: as few as keep the mean within ``budget`` bytes."""
    total = sum(sizes.values())
    shards = -(-total // budget)
    groups: dict[int, list[int]] = {}
    before = 0
    for episode, size in sizes.items():
        middle = before + size / 2
        groups.setdefault(int(middle * shards / total), []).append(episode)
        before += size
    return list(groups.values())


def write_episodes(
    folder: Path,
    index: int,
    dataset: Dataset,
    stored_cameras: StoredCameras,
    protocol: Protocol,
    stored: Sequence[tuple[Episode, np.ndarray]],
) -> dict[str, Any]:
    """Write shard ``index`` from ``stored``: pairs of an episode and the decision steps whose windows are stored.

    It runs in one worker from the first decoded frame to the written file, so that nothing large travels between
    processes and the bytes cannot depend on how many there are. Returns the shard's record for ``meta.json``.
    """
    total = sum(len(observed_steps(steps, protocol)) for _, steps in stored)
    size = stored_cameras.resolution
    images = torch.empty((total, len(stored_cameras.cameras), 3, size, size), dtype=torch.uint8)
    parts: dict[str, list[np.ndarray]] = {}
    first = 0
    with Films() as films:
        for (episode, steps), rows in zip(stored, dataset.read_each(episode for episode, _ in stored), strict=True):
            observed = observed_steps(steps, protocol)
            _decode_into(images[first : first + len(observed)], dataset, episode, stored_cameras, observed, films)
            for name, values in _rows_of(episode, rows, steps, observed, first, protocol).items():
                parts.setdefault(name, []).append(values)
            first += len(observed)
    tensors = {name: torch.from_numpy(np.concatenate(values)) for name, values in parts.items()}
    return write_shard(folder, index, {"frame_images": images, **tensors})


def _rows_of(
    episode: Episode, rows: Rows, steps: np.ndarray, observed: np.ndarray, first: int, protocol: Protocol
) -> dict[str, np.ndarray]:
    """An episode's part of every tensor but the images; its frames begin at row ``first`` of the shard."""
    action, valid = targets(rows.action, steps, protocol.chunk_size, shift_ends(rows.intervention))
    return {
        "frame_state": rows.state[observed],
        "frame_trace": trace_states(rows.state, observed, protocol.trace),
        "frame_episode": np.full(len(observed), episode.index),
        "frame_step": observed,
        "frame_task": rows.task[observed],
        "window_episode": np.full(len(steps), episode.index),
        "window_step": steps,
        "window_task": rows.task[steps],
        "window_frame": first + np.searchsorted(observed, steps),
        "window_action": action,
        "window_valid": valid,
    }


def _decode_into(
    images: torch.Tensor, dataset: Dataset, episode: Episode, stored: StoredCameras, steps: np.ndarray, films: Films
) -> None:
    """Fill ``images`` [n, V, 3, S, S] with the frames of ``steps`` [n]; each camera is decoded once."""
    row_of = {int(step): row for row, step in enumerate(steps)}
    for position, camera in enumerate(stored.cameras):
        missing = set(row_of)
        for step, image in decode(dataset, episode, camera, row_of, films):
            frame = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
            images[row_of[step], position] = to_resolution(frame, stored.resolution)
            missing.discard(step)
        if missing:
            raise SigmaError(
                f"{dataset.root}: {camera}: episode {episode.index} has no frame for step {min(missing)} "
                f"({len(missing)} missing); run the audit stage, or list the episode in audit.exclude"
            )


def write_shards(
    target: Path,
    dataset: Dataset,
    stored_cameras: StoredCameras,
    protocol: Protocol,
    windows: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    budget: int,
    workers: Workers,
) -> list[dict[str, Any]]:
    """Write the whole folder of shards, or nothing: the stored windows, their table and ``meta.json``.

    ``windows`` are the columns of :func:`sigma.data.windows.candidates.candidate_windows`. Each of ``workers`` has one
    shard of about ``budget`` bytes in memory at a time. Returns the shards' records.
    """
    stored = stored_windows(windows)
    steps_of = {
        int(episode): windows["step"][stored & (windows["episode"] == episode)]
        for episode in np.unique(windows["episode"][stored])
    }
    image_bytes = len(stored_cameras.cameras) * 3 * stored_cameras.resolution**2
    frame_bytes = image_bytes + protocol.trace * len(dataset.joint_names) * 4
    sizes = {
        episode: len(observed_steps(steps, protocol)) * frame_bytes + steps.size * protocol.chunk_size * 4
        for episode, steps in steps_of.items()
    }
    groups = group_episodes(sizes, budget)
    slim, episodes = dataset.for_workers(), dataset.episodes
    with atomic_directory(target.resolve()) as folder:
        jobs = [
            (folder, index, slim, stored_cameras, protocol, [(episodes[item], steps_of[item]) for item in group])
            for index, group in enumerate(groups)
        ]
        records = list(workers.run(write_episodes, jobs, "window"))
        write_index(folder, {**meta, "shards": records}, _windows_table(windows, stored, groups))
    return records


def _windows_table(windows: Mapping[str, np.ndarray], stored: np.ndarray, groups: list[list[int]]) -> pa.Table:
    """``windows.parquet``: the candidates with their place in the shards, −1 where they are not stored."""
    shard_of = {episode: index for index, group in enumerate(groups) for episode in group}
    shard = np.where(stored, [shard_of.get(int(episode), -1) for episode in windows["episode"]], -1)
    row = np.full(len(stored), -1)
    for index in range(len(groups)):
        row[shard == index] = np.arange((shard == index).sum())
    window = np.where(stored, np.cumsum(stored) - 1, -1)
    return pa.table({"window": window, **windows, "shard": shard, "row": row})
