"""Bases and training inputs of a project, each time with weights of its own, and how LeRobot's side computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

from sigma.compute.device import open_device
from sigma.policy.model import lora
from sigma.policy.pi05.base import Base, load_base
from sigma.policy.pi05.inputs import Normalisation
from sigma.shared.files import read_json
from sigma.shared.seeding import seed_from
from sigma.studies.benchmark.project import Project


def device_of(project: Project) -> torch.device:
    """The device that ``machine`` names, with threads and deterministic kernels set."""
    return open_device(project.parameters.machine)


def features_of(project: Project) -> dict[str, Any]:
    """``data/features/meta.json``: what the baseline stage computed with."""
    return read_json(project.root / "data/features/meta.json")


def normalisation_of(project: Project) -> Normalisation:
    return Normalisation.from_json(features_of(project)["normalisation"])


def base_of(project: Project) -> Base:
    """A base of its own, because LoRA is inserted in place."""
    reference = read_json(project.root / "data/base.json")
    return load_base(reference, device=str(device_of(project)), dtype=features_of(project)["dtype"])


def plain_lora(project: Project, base: Base) -> PeftModel:
    """``base`` under LoRA on language model and action expert as the project's own has it, with untrained weights."""
    section = project.parameters.lora
    return lora.attach(
        base.policy,
        rank=section.rank,
        alpha=section.alpha,
        dropout=section.dropout,
        towers=("language", "expert"),
        projections=section.projections,
        seed=seed_from(project.parameters.train.seed, "lora") % 2**63,
    )


@contextmanager
def lerobot_kernels() -> Iterator[None]:
    """Choose kernels as LeRobot's own commands do, which ask for no deterministic ones; also a decorator."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
