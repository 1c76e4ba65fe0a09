"""``sigma plan``: what a run would take, before anything is downloaded: parameters, memory by stage, disk, time."""

import os
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import HfApi, RepoFile, get_cached_repo_tree, try_to_load_from_cache
from huggingface_hub.errors import CachedRepoTreeNotFoundError
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from rich.console import Console
from rich.table import Table

from sigma.data.dataset.dataset import Dataset, open_dataset
from sigma.data.dataset.origin import EMBEDDED, locate_dataset
from sigma.parameters import Parameters
from sigma.parameters.machine import MachineParameters
from sigma.policy.pi05.base_origin import resolve_base
from sigma.policy.pi05.configuration import read_configuration
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json
from sigma.shared.hub import Kind, hub_errors, snapshot
from sigma.shared.sources import expanded
from sigma.tools.footprint import EPISODE_STEPS, Footprint, Group, build_footprint
from sigma.tools.workload import Job

GIB = 2**30
# What Python with torch and LeRobot takes on the CPU, or a CUDA context with its libraries on a GPU, beside tensors.
RUNTIME = GIB
# AdamW keeps two moments of each trained number; the loop keeps their average, the best so far and, while it validates,
# the live ones.
MOMENTS, COPIES = 2, 3
REHEARSAL = Path("logs/rehearsal.json")


@dataclass(frozen=True)
class Memory:
    """Bytes of one stage on the device; ``peak`` is their sum, the runtime included."""

    stage: str
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def peak(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + RUNTIME


@dataclass(frozen=True)
class Plan:
    """What ``sigma plan`` shows; sizes in bytes, time in seconds. A disk entry of None is not known yet."""

    base: str
    frozen: dict[str, Group]
    trainable: dict[str, Group]
    memory: list[Memory]
    disk: dict[str, int | None]
    time: dict[str, float]
    device: str
    free: int | None
    notes: list[str]
    advice: str

    @property
    def fits(self) -> bool | None:
        """Whether the largest stage fits into the free memory; None where that is not known."""
        return None if self.free is None else max(stage.peak for stage in self.memory) <= self.free

    @property
    def verdict(self) -> str:
        largest = max(self.memory, key=lambda stage: stage.peak)
        need = f"{largest.peak / GIB:.1f} GiB at the most, in {largest.stage}"
        if self.free is None:
            return f"needs {need}; no {self.device} device is here to compare with, name its memory: --memory GIB"
        have = f"{self.free / GIB:.1f} GiB free on {self.device}"
        return f"fits: {need}; {have}" if self.fits else f"does not fit: {need}; {have}; {self.advice}"


def run(parameters: Parameters, *, memory: float | None = None) -> Plan:
    """The plan of a run with these parameters; ``memory`` (GiB) takes the place of the device's free memory.

    Nothing is downloaded; the Hub is asked for the sizes of a pinned repository's files, where it can be reached.
    """
    base, dataset, footprint = sigma_here(parameters)
    device, free = device_memory(parameters.machine, memory)
    notes, processes = [], parameters.machine.processes
    if processes > 1:
        place = "in the main memory, which they share" if device == "cpu" else "on a GPU of its own"
        notes.append(f"memory is that of each of {processes} processes, {place}")
    if dataset is None:
        declared = footprint.work.sizes.action_dim
        notes.append(
            f"the robot's joints and the episodes' lengths are not known before the dataset is fetched: counted with "
            f"{declared} joints and {EPISODE_STEPS} control steps"
        )
    return Plan(
        base,
        footprint.frozen,
        footprint.trainable,
        stages(footprint, parameters, device),
        _disk(footprint, dataset, parameters),
        _time(parameters, rate_key(parameters, footprint, device)),
        device,
        free,
        notes,
        _advice(parameters),
    )


def _advice(parameters: Parameters) -> str:
    """What makes a plan smaller."""
    advice, machine = "lower train.batch or machine.batch", parameters.machine
    if machine.processes > 1 and not machine.fsdp:
        advice += ", or set machine.fsdp"
    return advice if parameters.train.gradient_checkpointing else f"{advice}, or set train.gradient_checkpointing"


def _is_local(source: str) -> bool:
    return source == EMBEDDED or expanded(source).is_dir()


def base_configuration(parameters: Parameters) -> tuple[PI05Config, str]:
    """LeRobot's configuration of the base and where it is from; of an unfetched Hub base the class's own sizes."""
    origin = parameters.fetch.base
    if _is_local(origin.source):
        folder = resolve_base(origin.source, origin.revision)
        return read_configuration(folder), f"{origin.source}, its own sizes"
    cached = try_to_load_from_cache(origin.source, "config.json", revision=origin.revision)
    if isinstance(cached, str):
        return read_configuration(Path(cached).parent), f"{origin.source}, sizes from the cache"
    config = PI05Config(device="cpu")
    cameras = parameters.window.cameras or dict.fromkeys(f"observation.images.camera_{index}" for index in range(3))
    image = PolicyFeature(FeatureType.VISUAL, (3, *config.image_resolution))
    config.input_features, config.output_features = dict.fromkeys(cameras, image), {}
    return config, f"{origin.source}, not fetched yet: sizes of LeRobot's π0.5"


def dataset_here(parameters: Parameters) -> Dataset | None:
    """The dataset, where it is on this machine or in the Hub's cache."""
    origin = parameters.fetch.dataset
    if _is_local(origin.source):
        return open_dataset(locate_dataset(origin.source, origin.revision), origin.keys)
    try:
        folder = snapshot(origin.source, origin.revision or "", "dataset", verify=False, download=False)
        return open_dataset(folder, origin.keys)
    except SigmaError:
        return None


def sigma_here(parameters: Parameters) -> tuple[str, Dataset | None, Footprint]:
    """Where the base's sizes are from, the dataset where it is here, and the memory of Sigma on both."""
    config, origin = base_configuration(parameters)
    dataset = dataset_here(parameters)
    if dataset is None:
        return origin, None, build_footprint(config, parameters)
    longest = max(episode.length for episode in dataset.episodes)
    return origin, dataset, build_footprint(config, parameters, len(dataset.joint_names), longest)


def stages(footprint: Footprint, parameters: Parameters, device: str) -> list[Memory]:
    """Memory of each stage that holds the model on the device, in one of the ``machine.processes``, and of one decision
    on a robot: Sigma's alone, and both between which an adapter chooses a scale."""
    base, train, machine = parameters.base, parameters.train, parameters.machine
    work, batch, trained = footprint.work, machine.batch, footprint.trained
    whole = footprint.weights(device)  # one decision runs in one process
    parts = whole - (footprint.split(machine.processes) if machine.fsdp else 0)
    samples = base.samples if base.action == "mean" else 1

    def forward(stage: str, weights: int, batch: int, job: Job) -> Memory:
        return Memory(stage, weights, 0, 0, footprint.peak(job, batch))

    peak = max(footprint.peak(job(train.batch), train.batch) for job in (work.training_step, work.validation))
    gradients = min(trained, peak)
    return [
        forward("baseline", parts, batch, work.base_decision(batch, base.samples + 1)),
        Memory("finetune", parts + trained, gradients, (MOMENTS + COPIES) * trained, peak - gradients),
        forward("sigma", parts + trained, batch, work.sigma_decision(batch, samples)),
        forward("one decision, scale 1", whole + trained, 1, work.sigma_decision(1, samples)),
        forward("one decision, adapter", whole + trained, 1, work.both_decisions(1, samples)),
    ]


def device_memory(machine: MachineParameters, memory: float | None) -> tuple[str, int | None]:
    """The device of ``machine`` and its free bytes, of which processes on a CPU share; None where it is not here.

    ``memory`` in GiB takes the place of the free bytes.
    """
    choice = os.environ.get("SIGMA_DEVICE", "auto") if machine.device == "auto" else machine.device
    has_cuda = torch.cuda.is_available()
    if choice == "cuda" or (choice == "auto" and has_cuda):
        device, free = "cuda", torch.cuda.mem_get_info()[0] if has_cuda else None
    else:
        device, free = "cpu", psutil.virtual_memory().available // machine.processes
    return device, free if memory is None else int(memory * GIB)


def _disk(footprint: Footprint, dataset: Dataset | None, parameters: Parameters) -> dict[str, int | None]:
    """Bytes on the disk by place; DVC links its cache where the file system can."""
    fetch, window, work = parameters.fetch, parameters.window, footprint.work
    cache: dict[str, int | None] = {}
    if dataset is None:
        stored, copied = None, _hub_bytes(fetch.dataset.source, fetch.dataset.revision, "dataset")
    else:
        strides = {min(window.train_stride, window.eval_stride), window.memory_stride}
        stored = sum(ceil(dataset.frames / stride) for stride in strides)
        copied = sum((dataset.root / name).stat().st_size for name in dataset.files())
    if not _is_local(fetch.dataset.source):
        cache["Hub cache: dataset"] = copied
    if not _is_local(fetch.base.source):
        listed = _hub_bytes(fetch.base.source, fetch.base.revision, "model")
        cache["Hub cache: base" if listed else "Hub cache: base, if stored in float32"] = (
            listed or 4 * footprint.base_parameters
        )
    image = 3 * work.config.image_resolution[0] ** 2
    project = {
        "data/dataset": copied,
        "data/shards, at most": stored and stored * work.views * image,
        "data/features": stored and stored * (work.sizes.pools + 2 * work.views) * work.sizes.width * 4,
        "models and training state": (2 + MOMENTS + COPIES) * footprint.trained,
    }
    at_least = ", at least" if None in project.values() else ""
    total = sum(size for size in project.values() if size is not None)
    return cache | project | {f"DVC cache, where it cannot link{at_least}": total}


def _hub_bytes(repository: str, revision: str | None, kind: Kind) -> int | None:
    """Bytes of a repository's files by its listing, cached or asked for; None where neither can be had."""
    try:
        return sum(entry.size for entry in get_cached_repo_tree(repository, repo_type=kind, revision=revision))
    except CachedRepoTreeNotFoundError:
        pass
    try:
        with hub_errors(repository, repository, kind):
            tree = HfApi().list_repo_tree(repository, repo_type=kind, revision=revision, recursive=True)
            return sum(entry.size for entry in tree if isinstance(entry, RepoFile))
    except SigmaError:
        return None


def rate_key(parameters: Parameters, footprint: Footprint, device: str) -> dict[str, Any]:
    """What a measured time depends on; a rate is used for a run of the same key only."""
    return {
        "parameters": footprint.base_parameters,
        "cameras": footprint.work.views,
        "device": device,
        "dtype": parameters.base.dtype,
        **parameters.train.model_dump(include={"batch", "gradient_checkpointing", "cache_vision", "flow_draws"}),
    }


def _time(parameters: Parameters, key: dict[str, Any]) -> dict[str, float]:
    """Seconds of a training where the rehearsal measured a step of these sizes on this device."""
    record = read_json(REHEARSAL) if REHEARSAL.is_file() else {}
    if record.get("key") != key:
        return {}
    train = parameters.train
    step = record["parts"]["one training step"]["seconds"] * train.accumulation
    return {"finetune, by one measured step": step * train.steps}


def show(plan: Plan, console: Console) -> None:
    """Print the plan as tables and its verdict as the last line."""
    console.print(f"base: {plan.base}", highlight=False)
    table = Table("parameters", "count", "GiB")
    for label, groups in (("frozen", plan.frozen), ("trainable", plan.trainable)):
        total = Group(sum(group.parameters for group in groups.values()), sum(group.bytes for group in groups.values()))
        for name, group in {**groups, label: total}.items():
            style = "bold" if name == label else None
            table.add_row(name, f"{group.parameters:,}", f"{group.bytes / GIB:.3f}", style=style)
        table.add_section()
    console.print(table)
    table = Table("memory, GiB", "weights", "gradients", "optimizer", "activations", "runtime", "peak")
    for stage in plan.memory:
        parts = (stage.weights, stage.gradients, stage.optimizer, stage.activations, RUNTIME, stage.peak)
        table.add_row(stage.stage, *(f"{part / GIB:.2f}" for part in parts))
    console.print(table)
    table = Table("disk", "GiB")
    for name, size in plan.disk.items():
        table.add_row(name, "not known before the fetch" if size is None else f"{size / GIB:.3f}")
    console.print(table)
    lines = [f"time: {phase}: {seconds / 60:.1f} minutes" for phase, seconds in plan.time.items()]
    if not lines:
        source = "sigma rehearse measures one" if plan.device == "cpu" else "a run's is in logs/finetune-training.json"
        lines = [f"time: no rate was measured for these sizes on {plan.device}; {source}"]
    for line in [*lines, *(f"note: {note}" for note in plan.notes)]:
        console.print(line, highlight=False)
    console.print(plan.verdict, highlight=False, soft_wrap=True)
