"""Where the numbers come from: sources, revisions, digests, seeds and package versions; no times and no paths."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sigma.shared.records import ORIGIN

PACKAGES = ("lerobot_policy_sigma", "dvc", "lerobot", "numpy", "peft", "pyarrow", "scipy", "torch", "transformers")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def provenance(
    dataset: dict[str, Any], base: dict[str, Any], features: dict[str, Any], heads: dict[str, Any], seed: int
) -> dict[str, Any]:
    """The record of one run, from the metadata that each stage left; the same inputs give the same bytes."""
    return {
        "dataset": {key: dataset[key] for key in (*ORIGIN, "further")},
        "base": {key: base[key] for key in ORIGIN},
        "base_replay": {key: features[key] for key in ("statistics", "action", "samples", "seed", "num_steps")},
        "heads": {"digest": heads["sigma"]["digest"]},
        "report": {"seed": seed},
        "packages": {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
    }
