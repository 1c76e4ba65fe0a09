"""Bases and training material of a project, each time with weights of its own, and how LeRobot's side computes."""

from collections.abc import Callable, Iterator
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
from sigma.training.batches import WindowBatches, load_batches


def device_of(project: Project) -> torch.device:
    """The device that ``machine`` names, with threads and deterministic kernels set."""
    return open_device(project.parameters.machine)


def features_of(project: Project) -> dict[str, Any]:
    """``data/features/meta.json``: what the baseline stage computed with."""
    return read_json(project.root / "data/features/meta.json")


def normalisation_of(project: Project) -> Normalisation:
    return Normalisation.from_json(features_of(project)["normalisation"])


def base_of(project: Project) -> Base:
    """A base of its own: LoRA is inserted in place."""
    reference = read_json(project.root / "data/base.json")
    return load_base(reference, device=str(device_of(project)), dtype=features_of(project)["dtype"])


def material_of(project: Project) -> WindowBatches:
    """Training's inputs, with a base of their own."""
    data = project.root / "data"
    return load_batches(
        data / "base.json",
        data / "shards",
        data / "features",
        data / "predictions/baseline.parquet",
        device=device_of(project),
    )


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
def lerobots_kernels() -> Iterator[None]:
    """Inside the block kernels are chosen as in LeRobot's own commands: deterministic ones are not asked for, and new
    memory is not filled."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def unfilled[**P, R](work: Callable[P, R]) -> Callable[P, R]:
    """``work`` with deterministic kernels as they are, but new memory left as it is: what torch's filling costs."""

    def inside(*args: P.args, **options: P.kwargs) -> R:
        before = torch.utils.deterministic.fill_uninitialized_memory
        torch.utils.deterministic.fill_uninitialized_memory = False
        try:
            return work(*args, **options)
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = before

    return inside


def as_lerobot[**P, R](work: Callable[P, R]) -> Callable[P, R]:
    """``work`` under :func:`lerobots_kernels`."""

    def inside(*args: P.args, **options: P.kwargs) -> R:
        with lerobots_kernels():
            return work(*args, **options)

    return inside
