"""A small world that the real stages made, shared by the tests of model, training and evaluation.

A tiny π0.5 with random weights and a dataset of a few short episodes go through fetch, audit, window and baseline once
a session, and so does the training of a Sigma for a few steps on it. Tests that alter files work on a copy.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sigma.parameters import Parameters, read_parameters
from sigma.parameters.schema import PARAMS_FILE, read_yaml

ROOT = Path(__file__).resolve().parent.parent
# Small enough for seconds, large enough that every part has something to do: memory, both splits, two instructions.
SMALL: dict[str, dict[str, Any]] = {
    "audit": {"min_frames": 8},
    "window": {
        "horizon": 8,
        "chunk": 4,
        "memory_stride": 4,
        "trace": 3,
        "train_stride": 4,
        "eval_stride": 8,
        "validation": 2,
        "test": 2,
        "shard_mib": 1,
    },
    "base": {"samples": 2},
    # Four steps see every window, so that TRAF's weights count before the end.
    "train": {
        "steps": 6,
        "batch": 8,
        # A few steps shall change what can be seen.
        "learning_rate": 0.01,
        "lora_learning_rate": 0.01,
        "validate_every": 3,
        "checkpoint_every": 2,
        "average": 0.5,
        "views": 2,
        "flow_draws": 2,
        "validation_draws": 4,
    },
    "lora": {"rank": 2, "alpha": 4.0},
    # Every part is on, those too that are off by default.
    "telepathy": {
        "factors": 3,
        "factor_dim": 4,
        "width": 16,
        "film": True,
        "branches": ["condition", "vector", "chunk", "trajectory"],
    },
    "loss": {
        "traf": {"top_k": 0.25},
        "tsac": {"bank": ["lift the cube", "push the cube to the left", "close the box"]},
    },
    "report": {"resamples": 200, "worst_windows": 2},
    "machine": {"threads": 1, "workers": 1, "device": "cpu"},
}


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later mappings over earlier ones, key by key at every depth."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged


@contextmanager
def inside(folder: Path) -> Iterator[Path]:
    """Work in ``folder``, as the stages do: their paths are relative."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


@dataclass(frozen=True)
class World:
    """A project folder: ``params.yaml`` and what the stages have written there so far."""

    root: Path

    def values(self, *changes: Mapping[str, Any]) -> dict[str, Any]:
        """The shipped parameters, made small, with this world's sources and with ``changes``."""
        origins = {
            "fetch": {
                "dataset": {"source": str(self.root / "recorded"), "revision": None},
                "base": {"source": str(self.root / "base"), "revision": None},
            }
        }
        return merge(read_yaml(ROOT / PARAMS_FILE), SMALL, origins, *changes)

    def configure(self, *changes: Mapping[str, Any]) -> Parameters:
        """Write ``params.yaml`` with ``changes`` and return the validated sections."""
        from ruamel.yaml import YAML

        file = self.root / PARAMS_FILE
        with open(file, "w", encoding="utf-8") as stream:
            YAML(typ="safe").dump(self.values(*changes), stream)
        return read_parameters(file)

    def run(self, *stages: str, changes: Mapping[str, Any] | None = None) -> list[str]:
        """Run stages as the command line does; returns the line that each prints."""
        parameters = self.configure(changes or {})
        with inside(self.root):
            return [import_module(f"sigma.commands.{stage}").run(parameters) for stage in stages]

    def copy(self, folder: Path) -> "World":
        """The same world in another folder; what it reads from outside stays where it was."""
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("data", "models", PARAMS_FILE):
            source = self.root / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("dataset"))
            elif source.is_file():
                shutil.copyfile(source, folder / part)
        if (audit := self.root / "metrics/audit.json").is_file():
            (folder / "metrics").mkdir()
            shutil.copyfile(audit, folder / "metrics/audit.json")
        for part in ("base", "recorded"):
            (folder / part).symlink_to((self.root / part).resolve())
        return World(folder)

    @cached_property
    def shards(self):
        from sigma.data.shards import Shards

        return Shards.open(self.root / "data/shards")

    def states(self, episode: int, step: int):
        """Joint states (step + 1, D) of a recorded episode's control steps up to this one, in the robot's units.

        Those between the stored frames are known by the traces of the later ones.
        """
        import numpy as np

        shards, known = self.shards, {}
        for row in np.flatnonzero(shards.frame_episode == episode):
            last = int(shards.frame_step[row])
            known |= {last - back - 1: state for back, state in enumerate(shards.frame_trace[row][::-1])}
            known[last] = shards.frame_state[row]
        return np.stack([known[one] for one in range(step + 1)])

    def material(self):
        """Fresh :class:`~sigma.training.batches.WindowBatches` with a base of its own."""
        import torch

        from sigma.training.batches import load_batches

        data = self.root / "data"
        return load_batches(
            data / "base.json",
            data / "shards",
            data / "features",
            data / "predictions/baseline.parquet",
            device=torch.device("cpu"),
        )

    def base(self):
        """A fresh :class:`~sigma.policy.pi05.base.Base`."""
        from sigma.policy.pi05.base import load_base
        from sigma.shared.files import read_json

        return load_base(read_json(self.root / "data/base.json"))

    def trainer(self, *changes: Mapping[str, Any]):
        """A trainer on fresh material, with ``changes`` to the parameters."""
        return self.trainer_from(None, *changes)

    def trainer_from(self, start: Path | None, *changes: Mapping[str, Any]):
        """The same that goes on from a trained model."""
        from sigma.training.trainer import Trainer

        return Trainer(self.material(), self.configure(*changes), start)

    def vla(self, **options):
        """The trained Sigma of this world through its public constructor, on a fresh base."""
        from sigma import SigmaTelepathyVLA

        return SigmaTelepathyVLA.from_base(base_policy=self.base(), lora_dir=self.root / "models/sigma", **options)


def tiny_sizes(**changes: Any):
    """Sizes of heads for a backbone of width 24 with two cameras, with ``changes``."""
    from sigma.policy.model.sizes import TelepathySizes

    sizes: dict[str, Any] = {
        "width": 24,
        "expert_width": 16,
        "views": 2,
        "pools": 4,
        "state_dim": 6,
        "action_dim": 6,
        "chunk_size": 16,
        "horizon": 8,
        "chunk": 4,
        "trace": 2,
        "inner": 16,
        "factors": 3,
        "factor_dim": 4,
        "factor_tokens": 0,
        "film": True,
        "branches": ("condition", "vector", "chunk", "trajectory"),
        "memory": "carried",
        "present": "vision",
        "factor_source": "memory",
    }
    return TelepathySizes(**(sizes | changes))


def make_world(root: Path) -> World:
    """Write base and dataset, and run the stages up to baseline."""
    # Here, not above: every test run loads this module, few need torch.
    from tests.bases import write_tiny_base
    from tests.datasets import write_dataset

    root.mkdir(parents=True, exist_ok=True)
    write_tiny_base(root / "base")
    write_dataset(root / "recorded", lengths=(28, 25, 30, 27, 29, 26, 31, 28))
    world = World(root)
    world.run("fetch", "audit", "window", "baseline")
    return world


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> World:
    """Everything up to the baseline stage; read only."""
    return make_world(tmp_path_factory.mktemp("worlds") / "prepared")


@pytest.fixture(autouse=True, scope="session")
def _scratch(tmp_path_factory):
    """Checkpoints of tests never land beside the user's DVC cache."""
    before = os.environ.get("SIGMA_SCRATCH")
    os.environ["SIGMA_SCRATCH"] = str(tmp_path_factory.mktemp("scratch"))
    yield
    if before is None:
        del os.environ["SIGMA_SCRATCH"]
    else:
        os.environ["SIGMA_SCRATCH"] = before


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> World:
    """A short training and its evaluation; read only."""
    world = prepared.copy(tmp_path_factory.mktemp("worlds") / "trained")
    world.run("finetune", "evaluate")
    return world


@pytest.fixture
def own(prepared, tmp_path) -> World:
    """A copy of the prepared world that a test may alter."""
    return prepared.copy(tmp_path / "own")
