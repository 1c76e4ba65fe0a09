"""The project whose stages are measured: its folder, its parameters, its base, and how much of it a round takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from sigma.commands.window import DATASET, SHARDS
from sigma.compute.device import open_device
from sigma.data.dataset.dataset import Dataset, open_dataset
from sigma.data.shards import Shards
from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.policy.pi05.base import Base, load_base
from sigma.policy.pi05.inputs import Normalisation
from sigma.shared.files import read_json
from sigma.shared.seeding import seed_from
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

    def device(self) -> torch.device:
        """The device that ``machine`` names, with threads and deterministic kernels set."""
        return open_device(self.parameters.machine)

    def features(self) -> dict[str, Any]:
        """``data/features/meta.json``: what the baseline stage computed with."""
        return read_json(self.root / "data/features/meta.json")

    def normalisation(self) -> Normalisation:
        return Normalisation.from_json(self.features()["normalisation"])

    def base(self) -> Base:
        """A newly loaded base at each call, because LoRA is inserted in place."""
        reference = read_json(self.root / "data/base.json")
        return load_base(reference, device=str(self.device()), dtype=self.features()["dtype"])

    def plain_lora(self, base: Base) -> PeftModel:
        """``base`` under LoRA on language model and action expert with Sigma's rank, at its initial weights."""
        seed = seed_from(self.parameters.train.seed, "lora") % 2**63
        return lora.attach(base.policy, **self.parameters.lora.model_dump(), seed=seed)


def train_windows(shards: Shards) -> np.ndarray:
    """Row numbers of the train windows."""
    return np.flatnonzero(shards.window_split == "train")


@contextmanager
def lerobot_kernels() -> Iterator[None]:
    """Choose kernels as LeRobot's own commands do, which ask for no deterministic ones; also a decorator."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
