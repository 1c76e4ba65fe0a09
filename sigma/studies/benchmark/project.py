"""The project whose stages are measured: its folders, its parameters, and how much of them a round takes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sigma.commands.window import DATASET, SHARDS
from sigma.data.dataset.dataset import Dataset, open_dataset
from sigma.data.shards import Shards
from sigma.parameters import Parameters
from sigma.studies.benchmark.measure import Effort
from sigma.studies.benchmark.settings import BenchmarkParameters


@dataclass(frozen=True)
class Project:
    """A finished pipeline under ``root`` with the sections of its params.yaml, and what to measure it by.

    ``effort`` says how often each side is measured; ``settings`` how much work a round is.
    """

    root: Path
    parameters: Parameters
    settings: BenchmarkParameters
    effort: Effort

    def dataset(self) -> Dataset:
        return open_dataset(self.root / DATASET)

    def shards(self) -> Shards:
        return Shards.open(self.root / SHARDS, verify=False)


def train_windows(shards: Shards) -> np.ndarray:
    """Row numbers of the train windows."""
    return np.flatnonzero(shards.window_split == "train")
