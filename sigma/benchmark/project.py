"""The project whose stages are measured: its folders, its parameters, and how much of them a round takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.benchmark.measure import Effort
from sigma.benchmark.parameters import BenchmarkParameters
from sigma.commands.window import DATASET, SHARDS
from sigma.data.shards import Shards
from sigma.data.source import Dataset, open_dataset
from sigma.parameters import Section


@dataclass(frozen=True)
class Project:
    """A finished pipeline under ``root`` with the sections of its params.yaml, and what to measure it by.

    ``effort`` says how often each side is measured; ``settings`` how much work a round is.
    """

    root: Path
    parameters: Mapping[str, Section]
    settings: BenchmarkParameters
    effort: Effort

    def section(self, name: str) -> Any:
        """A section of params.yaml."""
        return self.parameters[name]

    def dataset(self) -> Dataset:
        return open_dataset(self.root / DATASET)

    def shards(self) -> Shards:
        return Shards.open(self.root / SHARDS, verify=False)


def train_windows(shards: Shards) -> np.ndarray:
    """Row numbers of the train windows."""
    return np.flatnonzero(shards.window_split == "train")
