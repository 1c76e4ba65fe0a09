"""Inputs that were made to do harm: to run code, to read or write elsewhere, to hang, to forge what is printed."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.case import Fault, Project, as_fetched, column, content, gone, json_with, table_with, together
from tests.faults.in_dataset import EPISODES, INFO, TASKS, one
from tests.faults.in_files import trainings_state
from tests.faults.in_shards import META
from tests.faults.in_weights import HEADS, LORA, MODEL

RAN = "SIGMA_TEST_RAN"
"""Environment variable that holds the file which a payload that runs leaves behind."""


class Payload:
    """Unpickling it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ[RAN],)


def pickled(project: Project, path: Path) -> None:
    """The form that ``torch.save`` gives, with a payload among the tensors."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        torch.save({"tensor": torch.zeros(2), "payload": Payload()}, file)


def bare(path: Path) -> None:
    """A pickle alone, without the archive around it."""
    import pickle

    path.write_bytes(pickle.dumps(Payload()))


def shard(project: Project) -> None:
    from sigma.shared.files import digest_file

    path = project.path("data/shards/shard_00000.pt")
    pickled(project, path)
    record = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    project.json(META, lambda meta: meta["shards"][0].update(record))


def in_file(name: str) -> Callable[[Project], None]:
    return lambda project: pickled(project, project.path(name))


def state(project: Project) -> None:
    pickled(project, trainings_state(project))


def camera_named(name: str) -> Callable[[Project], None]:
    """A camera whose name is a path."""

    def inject(project: Project) -> None:
        project.json(INFO, lambda info: info["features"].update({name: info["features"]["observation.images.up"]}))

        def change(table: Any) -> Any:
            for part in ("chunk_index", "file_index", "from_timestamp"):
                table = table.append_column(f"videos/{name}/{part}", table[f"videos/observation.images.up/{part}"])
            return table

        table_with(EPISODES, change)(project)

    return inject


def remote_code(project: Project) -> None:
    """A tokenizer that asks for a class of its own, which lies beside it."""
    project.write("base/tokenizer/payload.py", f"import os\nos.mkdir(os.environ[{RAN!r}])\nclass Words: ...\n")
    project.json(
        "base/tokenizer/tokenizer_config.json",
        lambda config: config.update(
            auto_map={"AutoTokenizer": ["payload.Words", "payload.Words"]}, tokenizer_class="Words"
        ),
    )


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it is 60000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(4096))) + chunk(b"IEND", b"")
    )


def image_bomb(project: Project) -> None:
    """A camera whose images lie in the table, each of them a bomb."""
    import pyarrow

    def change(table: Any) -> Any:
        images = pyarrow.array([{"bytes": bomb(), "path": None}] * table.num_rows)
        return table.append_column("observation.images.up", images)

    table_with("data/dataset/data/chunk-000/file-000.parquet", change)(project)
    project.json(
        "data/dataset/meta/info.json", lambda info: info["features"]["observation.images.up"].update(dtype="image")
    )


def escape_in_name(project: Project) -> None:
    """A dataset's folder whose name would clear the terminal."""
    project.path("recorded").rename(project.path("rec\x1b[2Jorded"))
    project.parameters({"fetch": {"dataset": {"source": "rec\x1b[2Jorded"}}})
    project.remove("rec\x1b[2Jorded/meta/info.json")


NOT_PLAIN = "not a plain file of tensors (UnpicklingError: …)"
PUBLISH = "publish me/sigma --no-upload"

FAULTS = [
    Fault(
        "a payload in a shard, digest right",
        "baseline",
        shard,
        "data/shards/shard_00000.pt: not readable as a shard (…",
    ),
    Fault(
        "a payload in sigma_telepathy_heads.pt",
        PUBLISH,
        together(gone(HEADS), in_file(f"{MODEL}/sigma_telepathy_heads.pt")),
        f"{MODEL}/sigma_telepathy_heads.pt: {NOT_PLAIN}",
    ),
    Fault(
        "a bare pickle as sigma_telepathy_heads.pt",
        PUBLISH,
        together(gone(HEADS), lambda project: bare(project.path(f"{MODEL}/sigma_telepathy_heads.pt"))),
        f"{MODEL}/sigma_telepathy_heads.pt: {NOT_PLAIN}",
    ),
    Fault(
        "a payload in adapter_model.bin",
        "evaluate",
        together(gone(LORA), in_file(f"{MODEL}/adapter_model.bin")),
        f"{MODEL}/adapter_model.bin: {NOT_PLAIN}",
    ),
    Fault(
        "a payload in a training's state",
        "finetune",
        state,
        "…/state.pt: checkpoint not readable (UnpicklingError); delete it to train from the start",
    ),
    Fault(
        "a Python object in params.yaml",
        "fetch",
        content("params.yaml", "fetch: !!python/object/apply:os.mkdir [ran]\n"),
        "params.yaml: not valid YAML: …",
    ),
    Fault("a tokenizer that brings code", "fetch", remote_code, "base/tokenizer: not readable as a tokenizer (…)"),
    Fault(
        "a data path that leaves the dataset",
        "fetch",
        json_with(INFO, "data_path", "../secret"),
        f"{INFO}: data_path: '../secret' leaves the dataset's folder",
    ),
    Fault(
        "a video path from the root",
        "fetch",
        json_with(INFO, "video_path", "/etc/passwd"),
        f"{INFO}: video_path: '/etc/passwd' leaves the dataset's folder",
    ),
    Fault(
        "a camera whose name is a path",
        "fetch",
        camera_named("../../../etc"),
        f"{INFO}: video_path: …leaves the dataset's folder",
    ),
    Fault(
        "a path template that asks for a gigabyte of blanks",
        "fetch",
        json_with(INFO, "data_path", "data/{chunk_index:2000000000d}/{file_index}"),
        f"{INFO}: data_path: not a path template: …",
    ),
    Fault(
        "a path template that looks into objects",
        "fetch",
        json_with(INFO, "data_path", "data/{chunk_index.__class__}"),
        f"{INFO}: data_path: not a path template: …",
    ),
    Fault(
        "a shard's name that leaves the folder",
        "baseline",
        json_with(META, "shards.0.name", "../../base/model.safetensors"),
        f"{META}: shards: found '../../base/model.safetensors'; …",
    ),
    Fault(
        "a calibration whose arrays lie elsewhere",
        PUBLISH,
        json_with("models/adapter_calibration.json", "reference.file", "../base/model.safetensors"),
        "models/adapter_calibration.json: reference.file: found '../base/model.safetensors'; …",
    ),
    Fault(
        "statistics that lie elsewhere",
        "fetch",
        json_with("base/policy_preprocessor.json", "steps.2.state_file", "../data/features/features.safetensors"),
        "base/policy_preprocessor.json: state_file: found '../data/features/features.safetensors'; …",
    ),
    Fault(
        "an adapter whose targets are a pattern without end",
        "evaluate",
        json_with(f"{MODEL}/adapter_config.json", "target_modules", "((.*)*)*x"),
        f"{MODEL}/adapter_config.json: target_modules: found '((.*)*)*x'; legal: …",
    ),
    Fault(
        "an adapter that names a module to import",
        "evaluate",
        json_with(f"{MODEL}/adapter_config.json", "megatron_config", {"a": 1}),
        f"{MODEL}/adapter_config.json: megatron_config: found {{'a': 1}}; legal: None",
    ),
    Fault(
        "an instruction with a control character",
        "fetch",
        table_with(TASKS, column("task", one(1, "lift\x1b[2J the cube"))),
        f"{TASKS}: task 1: instruction 'lift\\x1b[2J the cube' holds the control character '\\x1b'; use printable text",
    ),
    Fault(
        "an image that unpacks to gigabytes",
        "window",
        as_fetched(image_bomb),
        "…/data/dataset/data/chunk-000/file-000.parquet: observation.images.up: episode 0, step 0: …",
    ),
    Fault(
        "a name that would clear the terminal",
        "fetch",
        escape_in_name,
        "rec\\x1b[2Jorded: not a LeRobotDataset folder (no meta/info.json)",
    ),
]
