"""``sigma plan``: what a run would take, before anything is downloaded: parameters, memory by stage, disk, time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.parameters import Parameters
from sigma.shared.errors import SigmaError

if TYPE_CHECKING:
    from lerobot.policies.pi05.configuration_pi05 import PI05Config
    from rich.console import Console

    from sigma.tools.footprint import Footprint

GIB = 2**30
# What Python with torch and LeRobot takes on the CPU, or a CUDA context with its libraries on a GPU, beside tensors.
RUNTIME = GIB
# AdamW keeps two moments of each trained number; the loop keeps their average, the best so far and, while it validates,
# the live ones.
MOMENTS, COPIES = 2, 3
RATES = Path("logs/rehearsal.json")


@dataclass(frozen=True)
class Memory:
    """Bytes of one stage on the device; ``peak`` is their sum, the runtime included."""

    stage: str
    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0

    @property
    def peak(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + RUNTIME


@dataclass
class Plan:
    """What ``sigma plan`` shows; sizes in bytes, time in seconds. A disk entry of None is not known yet."""

    base: str
    frozen: dict[str, tuple[int, int]]
    trainable: dict[str, tuple[int, int]]
    memory: list[Memory]
    disk: dict[str, int | None]
    time: dict[str, float]
    device: str
    free: int | None
    notes: list[str] = field(default_factory=list)
    advice: str = ""

    @property
    def peak(self) -> Memory:
        return max(self.memory, key=lambda stage: stage.peak)

    @property
    def fits(self) -> bool | None:
        return None if self.free is None else self.peak.peak <= self.free

    @property
    def verdict(self) -> str:
        need = f"{self.peak.peak / GIB:.1f} GiB at the most, in {self.peak.stage}"
        if self.free is None:
            return f"needs {need}; no {self.device} device is here to compare with, name its memory: --memory GIB"
        have = f"{self.free / GIB:.1f} GiB free on {self.device}"
        if self.fits:
            return f"fits: {need}; {have}"
        return f"does not fit: {need}; {have}; {self.advice}"


def run(parameters: Parameters, *, memory: float | None = None) -> Plan:
    """The plan of a run with these parameters; ``memory`` (GiB) takes the place of the device's free memory.

    Nothing is downloaded; the Hub is asked for the sizes of a pinned repository's files, where it can be reached.
    """
    from sigma.tools.footprint import build_footprint

    config, told = base_configuration(parameters)
    views = views_of(config, parameters)
    joints = joints_of(parameters)
    footprint = build_footprint(config, views, parameters, joints)
    device, free = _free(parameters, memory)
    count = sum(group.parameters for group in footprint.frozen.values())
    return Plan(
        base=told,
        frozen={name: (group.parameters, group.bytes) for name, group in footprint.frozen.items()},
        trainable={name: (group.parameters, group.bytes) for name, group in footprint.trainable.items()},
        memory=stages(footprint, parameters, device),
        disk=_disk(footprint, views, parameters),
        time=_time(parameters, rate_key(parameters, count, views, device)),
        device=device,
        free=free,
        notes=_notes(footprint, parameters, device, joints),
        advice=_advice(parameters),
    )


def _notes(footprint: "Footprint", parameters: Parameters, device: str, joints: int | None) -> list[str]:
    notes, processes = [], parameters.machine.processes
    if processes > 1:
        place = "in the main memory, which they share" if device == "cpu" else "on a GPU of its own"
        notes.append(f"memory is that of each of {processes} processes, {place}")
    if device != "cpu":
        notes.append("the language-model heads, which nothing uses, stay in the main memory")
    if joints is None:
        declared = footprint.model.heads.sizes.action_dim
        notes.append(f"the robot's joints are not known before the dataset is fetched: counted with {declared}")
    return notes


def _advice(parameters: Parameters) -> str:
    """What makes a plan smaller; gradients can be checkpointed only where no flow matching is trained."""
    from sigma.training.trainer import needs_expert

    told, machine = "lower train.batch or machine.batch", parameters.machine
    if machine.processes > 1 and not machine.fsdp:
        told += ", or set machine.fsdp"
    if parameters.train.gradient_checkpointing:
        return told
    if needs_expert(parameters):
        return f"{told}, or take base.branch frozen with train.gradient_checkpointing"
    return f"{told}, or set train.gradient_checkpointing"


def base_configuration(parameters: Parameters) -> "tuple[PI05Config, str]":
    """LeRobot's configuration of the base and where it is from; of an unfetched Hub base the class's own sizes."""
    from huggingface_hub import try_to_load_from_cache
    from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
    from lerobot.policies.pi05.configuration_pi05 import PI05Config

    import sigma.policy.pi05.small.configuration_pi05_small  # noqa: F401  (registers its type)
    from sigma.policy.pi05.base_origin import EMBEDDED, resolve_base

    origin = parameters.fetch.base
    if origin.source == EMBEDDED or Path(origin.source).is_dir():
        folder = resolve_base(origin.source, origin.revision)
        return PreTrainedConfig.from_pretrained(folder), f"{origin.source}, its own sizes"
    cached = try_to_load_from_cache(origin.source, "config.json", revision=origin.revision)
    if isinstance(cached, str):
        return PreTrainedConfig.from_pretrained(Path(cached).parent), f"{origin.source}, sizes from the cache"
    config = PI05Config(device="cpu")
    cameras = parameters.window.cameras or dict.fromkeys(f"observation.images.camera_{index}" for index in range(3))
    shape = (3, *config.image_resolution)
    config.input_features = {camera: PolicyFeature(FeatureType.VISUAL, shape) for camera in cameras}
    config.output_features = {}
    return config, f"{origin.source}, not fetched yet: sizes of LeRobot's π0.5"


def joints_of(parameters: Parameters) -> int | None:
    """Joints of the robot by the dataset's metadata, where it is here or in the Hub's cache; else None."""
    import json

    from huggingface_hub import try_to_load_from_cache

    from sigma.data.dataset.dataset import open_dataset
    from sigma.data.dataset.origin import EMBEDDED, locate_dataset

    origin = parameters.fetch.dataset
    if origin.source == EMBEDDED or Path(origin.source).is_dir():
        return len(open_dataset(locate_dataset(origin.source, origin.revision)).joint_names)
    cached = try_to_load_from_cache(origin.source, "meta/info.json", revision=origin.revision, repo_type="dataset")
    if not isinstance(cached, str):
        return None
    return int(json.loads(Path(cached).read_text(encoding="utf-8"))["features"]["action"]["shape"][0])


def views_of(config: "PI05Config", parameters: Parameters) -> int:
    """Cameras that the window stage keeps."""
    mapping = parameters.window.cameras
    return sum(mapping.get(camera, camera) is not None for camera in config.image_features)


def stages(footprint: "Footprint", parameters: Parameters, device: str) -> list[Memory]:
    """Memory of each stage that holds the model on the device, in one of the ``machine.processes``."""
    from sigma.training.trainer import needs_expert

    base, train, machine = parameters.base, parameters.train, parameters.machine
    batch, trained, alone = machine.batch, footprint.trained, footprint.weights(device)
    saved = footprint.split(machine.processes) if machine.fsdp else 0
    weights, read = alone - saved, footprint.weights(device, expert=needs_expert(parameters)) - saved
    mean = base.samples if base.action == "mean" else 1
    found = [Memory("baseline", weights, activations=footprint.decision(batch, base.samples + 1, sigma=False))]
    steps = {"finetune": footprint.residual_step}
    if base.branch == "adapted":
        steps["finetune, flow phase"] = footprint.flow_step
    for stage, step in steps.items():
        whole = step(train.batch)
        gradients = min(trained, whole)
        kept = (MOMENTS + COPIES) * trained
        found.append(Memory(stage, read + trained, gradients, kept, whole - gradients))
    found.append(Memory("sigma", weights + trained, activations=footprint.decision(batch, mean, sigma=True)))
    found.append(Memory("one decision", alone + trained, activations=footprint.decision(1, mean, sigma=True)))
    return found


def _free(parameters: Parameters, memory: float | None) -> tuple[str, int | None]:
    """The device of ``machine`` and its free bytes, of which processes on a CPU share; None where it is not here."""
    import os

    import psutil
    import torch

    wanted = parameters.machine.device
    if wanted == "auto":
        wanted = os.environ.get("SIGMA_DEVICE", "auto")
    here = torch.cuda.is_available()
    device = "cuda" if wanted == "cuda" or (wanted == "auto" and here) else "cpu"
    if memory is not None:
        return device, int(memory * GIB)
    if device == "cuda":
        return device, torch.cuda.mem_get_info()[0] if here else None
    return device, psutil.virtual_memory().available // parameters.machine.processes


def _disk(footprint: "Footprint", views: int, parameters: Parameters) -> dict[str, int | None]:
    """Bytes on the disk by place; DVC links its cache where the file system can."""
    from sigma.data.dataset.dataset import open_dataset
    from sigma.data.dataset.origin import EMBEDDED

    fetch, window, sizes = parameters.fetch, parameters.window, footprint.model.heads.sizes
    disk: dict[str, int | None] = {}
    frames: int | None = None
    if fetch.dataset.source == EMBEDDED or Path(fetch.dataset.source).is_dir():
        from sigma.data.dataset.origin import locate_dataset

        folder = locate_dataset(fetch.dataset.source, fetch.dataset.revision)
        dataset = open_dataset(folder)
        frames, copied = dataset.frames, sum((folder / name).stat().st_size for name in dataset.files())
    else:
        copied = _hub_bytes(fetch.dataset.source, fetch.dataset.revision, "dataset")
        disk["Hub cache: dataset"] = copied
    if fetch.base.source != EMBEDDED and not Path(fetch.base.source).is_dir():
        listed = _hub_bytes(fetch.base.source, fetch.base.revision, "model")
        count = sum(group.parameters for group in footprint.frozen.values())
        disk["Hub cache: base" if listed else "Hub cache: base, if stored in float32"] = listed or 4 * count
    disk["data/dataset"] = copied
    stored = frames and -(-frames // min(window.train_stride, window.eval_stride))
    side = footprint.config.image_resolution[0]
    disk["data/shards, at most"] = stored and stored * views * 3 * side * side
    disk["data/features"] = stored and stored * sizes.pools * sizes.width * 4
    disk["models and training state"] = (2 + MOMENTS + COPIES) * footprint.trained
    here = {name: size for name, size in disk.items() if not name.startswith("Hub cache")}
    at_least = ", at least" if None in here.values() else ""
    disk[f"DVC cache, where it cannot link{at_least}"] = sum(size for size in here.values() if size is not None)
    return disk


def _hub_bytes(repository: str, revision: str | None, kind: Any) -> int | None:
    """Bytes of a repository's files by its listing, cached or asked for; None where neither can be had."""
    from huggingface_hub import HfApi, RepoFile, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    from sigma.shared.hub import hub_errors

    try:
        entries = get_cached_repo_tree(repository, repo_type=kind, revision=revision)
    except CachedRepoTreeNotFoundError:
        try:
            with hub_errors(repository, repository, kind):
                tree = HfApi().list_repo_tree(repository, repo_type=kind, revision=revision, recursive=True)
                entries = [entry for entry in tree if isinstance(entry, RepoFile)]
        except SigmaError:
            return None
    return sum(entry.size for entry in entries)


def rate_key(parameters: Parameters, count: int, views: int, device: str) -> dict[str, Any]:
    """What a measured time depends on; a rate is used for a run of the same key only."""
    train = parameters.train
    names = ("batch", "gradient_checkpointing", "cache_vision", "flow_draws")
    return {
        "parameters": count,
        "cameras": views,
        "branch": parameters.base.branch,
        "dtype": parameters.base.dtype,
        "device": device,
        **{name: getattr(train, name) for name in names},
    }


def _time(parameters: Parameters, key: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by stage where the rehearsal measured a rate for these sizes on this device."""
    from sigma.shared.files import read_json

    if not RATES.is_file():
        return {}
    record, train = read_json(RATES), parameters.train
    if record.get("key") != key:
        return {}
    step = record["parts"]["one training step"]["seconds"] * train.accumulation
    if parameters.base.branch == "adapted":  # the rehearsed step is then one of flow matching
        return {"finetune, flow phase, by one measured step": step * train.flow_steps}
    return {"finetune, by one measured step": step * train.steps}


def show(plan: Plan, console: "Console") -> None:
    """Print the plan as tables and its verdict as the last line."""
    from rich.table import Table

    console.print(f"base: {plan.base}", highlight=False)
    table = Table("parameters", "count", "GiB", title=None)
    for name, (count, size) in plan.frozen.items():
        table.add_row(name, f"{count:,}", f"{size / GIB:.3f}")
    for label, groups in (("frozen", plan.frozen), ("trainable", plan.trainable)):
        if label == "trainable":
            table.add_section()
            for name, (count, size) in groups.items():
                table.add_row(name, f"{count:,}", f"{size / GIB:.3f}")
        total, size = (sum(column) for column in zip(*groups.values(), strict=True))
        table.add_row(f"[bold]{label}", f"[bold]{total:,}", f"[bold]{size / GIB:.3f}")
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
    if plan.time:
        table = Table("time", "minutes")
        for name, seconds in plan.time.items():
            table.add_row(name, f"{seconds / 60:.1f}")
        console.print(table)
    else:
        told = "sigma rehearse measures one" if plan.device == "cpu" else "a run's is in logs/finetune-training.json"
        console.print(f"time: no rate was measured for these sizes on {plan.device}; {told}", highlight=False)
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(plan.verdict, highlight=False, soft_wrap=True)
