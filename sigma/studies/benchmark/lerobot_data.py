"""LeRobot's dataset with the shards' windows, as its trainer opens it.

Legend: B windows, M history, Tc the base's chunk size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from sigma.data.dataset.dataset import ACTION, STATE
from sigma.data.shards import Shards


def deltas(meta: Mapping[str, Any]) -> dict[str, list[float]]:
    """``delta_timestamps`` that give LeRobot's items the shards' windows: M frames and states, Tc actions, seconds."""
    back = [-index * meta["history_stride"] / meta["fps"] for index in reversed(range(meta["history"]))]
    ahead = [index / meta["fps"] for index in range(meta["chunk_size"])]
    return {**dict.fromkeys(meta["dataset_cameras"], back), STATE: back, ACTION: ahead}


def open_lerobot(root: Path, backend: str, meta: Mapping[str, Any]) -> LeRobotDataset:
    """The folder as LeRobot's trainer opens it, with uint8 images and the windows of the shards' ``meta``."""
    return LeRobotDataset(
        "local/benchmark", root=root.resolve(), delta_timestamps=deltas(meta), video_backend=backend, return_uint8=True
    )


def dataset_rows(dataset: LeRobotDataset, shards: Shards, windows: np.ndarray) -> np.ndarray:
    """LeRobot's indices of the decision frames of ``windows``, int64 [B]."""
    starts = np.asarray(list(dataset.meta.episodes["dataset_from_index"]), dtype=np.int64)
    return starts[shards.window_episode[windows]] + shards.window_step[windows]
