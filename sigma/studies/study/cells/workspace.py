"""Where the study keeps what, and a folder on which the root pipeline's own stages ran."""

from dataclasses import dataclass
from pathlib import Path

OUT = Path("stages/study/out")
CELLS, DATA, TRIALS = OUT / "cells", OUT / "data", OUT / "trials"
MODELS, PLAYED, RATES, CLOCKS = OUT / "models", OUT / "played", OUT / "rates", OUT / "clocks"


@dataclass(frozen=True)
class Workspace:
    """Where the root pipeline's stages write in the folder ``root``."""

    root: Path

    @classmethod
    def of(cls, task: str) -> "Workspace":
        return cls(DATA / task)

    @property
    def base(self) -> Path:
        return self.root / "data/base.json"

    @property
    def shards(self) -> Path:
        return self.root / "data/shards"

    @property
    def features(self) -> Path:
        return self.root / "data/features"

    @property
    def baseline(self) -> Path:
        return self.root / "data/predictions/baseline.parquet"

    @property
    def models(self) -> Path:
        return self.root / "models"


def cell_file(task: str, arm: str) -> Path:
    """How an arm is trained on a task."""
    return CELLS / task / "arms" / f"{arm}.yaml"


def model_folder(task: str, arm: str, seed: int) -> Path:
    """What was trained."""
    return MODELS / task / arm / str(seed)
