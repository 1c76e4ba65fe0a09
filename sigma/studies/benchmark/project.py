"""The project whose stages are measured: its folder, its parameters, and how much of it a round takes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sigma.commands.window import DATASET, SHARDS
from sigma.data.dataset.dataset import Dataset, open_dataset
from sigma.data.shards import Shards
from sigma.parameters import Parameters
from sigma.studies.benchmark.settings import BenchmarkParameters


@dataclass(frozen=True)
class Project:
    """A finished pipeline under ``root``, its params.yaml, and the benchmark's settings."""

    root: Path
    parameters: Parameters
    settings: BenchmarkParameters

    def dataset(self) -> Dataset:
        return open_dataset(self.root / DATASET)

    def shards(self) -> Shards:
        return Shards.open(self.root / SHARDS, verify=False)


def train_windows(shards: Shards) -> np.ndarray:
    """Row numbers of the train windows."""
    return np.flatnonzero(shards.window_split == "train")
