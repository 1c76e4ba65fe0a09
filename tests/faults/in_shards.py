"""Faults in the files between the dataset and everything that learns."""

from collections.abc import Callable
from typing import Any

from tests.faults.case import Fault, Project, cut, flip, gone, json_with, json_without, parameters, together, windowed

META, WINDOWS = "data/shards/meta.json", "data/shards/windows.parquet"
FIRST, SECOND = "data/shards/shard_00000.pt", "data/shards/shard_00001.pt"
AGAIN = "run the window stage again (dvc repro window)"


def two_shards(project: Project) -> None:
    """Windows at every step, so that the frames fill two shards of a MiB."""
    project.parameters({"window": {"train_stride": 1, "eval_stride": 1, "memory_stride": 1}})
    windowed(project)


def swapped(project: Project) -> None:
    two_shards(project)
    first, second = (project.path(name).read_bytes() for name in (FIRST, SECOND))
    project.write(FIRST, second)
    project.write(SECOND, first)


def rewritten(change: Callable[[dict[str, Any]], Any]) -> Callable[[Project], None]:
    """Other tensors in the shard, and a ``meta.json`` that was made to agree with them."""

    def inject(project: Project) -> None:
        import torch

        from sigma.shared.files import digest_file

        path = project.path(FIRST)
        tensors = torch.load(path, weights_only=True)
        change(tensors)
        with path.open("wb") as file:
            torch.save(tensors, file)
        record = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
        project.json(META, lambda meta: meta["shards"][0].update(record))

    return inject


def scaled(name: str, by: float) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.update({name: tensors[name] * by})


FAULTS = [
    Fault("missing", "baseline", gone(FIRST), f"{FIRST}: the shard is missing; {AGAIN}"),
    Fault("truncated", "baseline", cut(FIRST), f"{FIRST}: the shard is truncated (… of … bytes); {AGAIN}"),
    Fault(
        "one bit flipped",
        "baseline",
        flip(FIRST),
        f"{FIRST}: the shard was altered (its digest is not that of meta.json); {AGAIN}",
    ),
    Fault(
        "one bit flipped in the middle of an image", "finetune", flip(FIRST, 5000), f"{FIRST}: the shard was altered (…"
    ),
    Fault("two swapped", "baseline", swapped, f"{FIRST}: the shard …"),
    Fault(
        "the format of the first version",
        "baseline",
        json_with(META, "format_version", 2),
        f"{META}: format version 2 is not read here, only 4; {AGAIN}",
    ),
    Fault(
        "newer format",
        "baseline",
        json_with(META, "format_version", 5),
        f"{META}: format version 5 is not read here, only 4; update this package",
    ),
    Fault(
        "wrong digest",
        "baseline",
        json_with(META, "shards.0.sha256", "0" * 64),
        f"{FIRST}: the shard was altered (its digest is not that of meta.json); {AGAIN}",
    ),
    Fault("no meta.json", "baseline", gone(META), f"{META}: not found; run the stage that writes it (dvc repro)"),
    Fault("meta.json is cut off", "evaluate", cut(META), f"{META}: not readable as JSON (…"),
    Fault(
        "meta.json without the horizon",
        "baseline",
        json_without(META, "horizon"),
        f"{META}: key 'horizon' is missing; {AGAIN}",
    ),
    Fault(
        "meta.json with a word for the horizon",
        "baseline",
        json_with(META, "horizon", "far"),
        f"{META}: horizon: expected a whole number, found 'far'; {AGAIN}",
    ),
    Fault(
        "meta.json lists no shard", "baseline", json_with(META, "shards", []), f"{META}: no shard is listed; {AGAIN}"
    ),
    Fault(
        "meta.json with a shard of no name",
        "baseline",
        json_without(META, "shards.0.name"),
        f"{META}: key 'shards.0.name' is missing; {AGAIN}",
    ),
    Fault(
        "meta.json with fewer tasks than windows name",
        "baseline",
        json_with(META, "tasks", ["push the cube"]),
        f"{FIRST}: tensor 'frame_task' names task 1, meta.json lists 1; {AGAIN}",
    ),
    Fault(
        "windows.parquet is truncated",
        "baseline",
        cut(WINDOWS),
        f"{WINDOWS}: altered or truncated (its digest is not that of meta.json); {AGAIN}",
    ),
    Fault(
        "windows.parquet is missing",
        "baseline",
        gone(WINDOWS),
        f"{WINDOWS}: not found; run the stage that writes it (dvc repro)",
    ),
    Fault(
        "another type of numbers, digest right",
        "baseline",
        rewritten(lambda tensors: tensors.update(frame_state=tensors["frame_state"].double())),
        f"{FIRST}: tensor 'frame_state' is not torch.float32 with 2 dimensions",
    ),
    Fault(
        "a tensor is missing, digest right",
        "baseline",
        rewritten(lambda tensors: tensors.pop("frame_trace") is None),
        f"{FIRST}: tensor 'frame_trace' is missing",
    ),
    Fault(
        "windows name frames that are not there, digest right",
        "baseline",
        rewritten(scaled("window_frame", 9)),
        f"{FIRST}: tensor 'window_frame' names a frame that the shard does not hold; {AGAIN}",
    ),
    Fault(
        "a state is no number, digest right",
        "baseline",
        rewritten(scaled("frame_state", float("nan"))),
        f"{FIRST}: tensor 'frame_state' holds a non-finite number; {AGAIN}",
    ),
    Fault(
        "of other parameters than the features",
        "finetune",
        two_shards,
        "data/features: made from other shards than data/shards; run `dvc repro baseline`",
    ),
    Fault(
        "another size of image than meta.json names",
        "baseline",
        json_with(META, "resolution", 64),
        f"{FIRST}: tensor 'frame_images' has rows of shape (2, 3, 32, 32), meta.json says (2, 3, 64, 64); {AGAIN}",
    ),
    Fault(
        "statistics are asked of the dataset, and are missing",
        "baseline",
        together(parameters(base__statistics="dataset"), json_without(META, "statistics")),
        f"{META}: key 'statistics' is missing; {AGAIN}",
    ),
]
