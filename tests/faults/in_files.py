"""Faults of the file system: places that cannot be written, disks that are full, caches that are gone, links."""

import contextlib
import gc
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.case import Fault, Project, content, gone, parameters, together

COMMIT = "0" * 40


@contextlib.contextmanager
def _mounted(folder: Path, kib: int) -> Iterator[None]:
    options = f"size={kib}k,mode=755"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        gc.collect()
        # Lazily: a shard that was mapped into memory may be held a moment longer.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk(name: str, free: int | None) -> Callable[[Project], None]:
    """A folder becomes a small disk of its own with ``free`` KiB left; none of them makes it read-only."""

    def inject(project: Project) -> None:
        folder, aside = project.path(name), project.root.parent / "aside"
        folder.mkdir(exist_ok=True)
        shutil.copytree(folder, aside)
        project.stack.callback(shutil.rmtree, aside)
        project.stack.enter_context(_mounted(folder, 8192))
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        if free is None:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            return
        filler = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while True:
                os.write(filler, bytes(4096))
        os.ftruncate(filler, max(0, os.fstat(filler).st_size - 1024 * free))
        os.close(filler)

    return inject


def largest_file(kib: int) -> Callable[[Project], None]:
    """No file may grow beyond this size, as where a quota is used up."""

    def inject(project: Project) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        project.stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kib, before[1]))

    return inject


def a_file_for(name: str) -> Callable[[Project], None]:
    """A file stands where a folder should be."""
    return together(gone(name), content(name, "in the way"))


def a_folder_for(name: str) -> Callable[[Project], None]:
    """A folder stands where a file should be."""
    return together(gone(name), lambda project: project.path(name).mkdir())


def linked(name: str, target: str) -> Callable[[Project], None]:
    """A file is a link; what it held lies at ``target`` then."""

    def inject(project: Project) -> None:
        path, place = project.path(name), project.path(name).parent / target
        if path.name != target:
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
        else:
            path.unlink()
        path.symlink_to(target)

    return inject


def scratch_is_a_file(project: Project) -> None:
    Path(os.environ["SIGMA_SCRATCH"]).write_text("in the way")


def trainings_state(project: Project) -> Path:
    """Where the state of the training that is about to run lies."""
    from sigma.parameters import read_parameters
    from sigma.training.state import scratch_root
    from sigma.training.trainer import Trainer
    from tests.worlds import World, inside

    with inside(project.root):
        key = Trainer(World(project.root).material(), read_parameters()).key()
    return scratch_root() / key[:32] / "state.pt"


# A training that could not be put away has run; its state is kept, and its speed is noted beside the outputs.
SPEED = ("logs",)
TABLE = "recorded/data/chunk-000/file-000.parquet"

FAULTS = [
    Fault("data/ is read-only", "fetch", disk("data", None), "data/…: cannot be written (Read-only file system)"),
    Fault(
        "data/ is read-only", "window", disk("data", None), "…/data/shards: cannot be written (Read-only file system)"
    ),
    Fault(
        "models/ is read-only",
        "finetune",
        disk("models", None),
        "models/sigma: cannot be written (Read-only file system)",
        writes=SPEED,
    ),
    Fault(
        "metrics/ is read-only", "report", disk("metrics", None), "metrics/…: cannot be written (Read-only file system)"
    ),
    Fault("the disk of data/ is full", "fetch", disk("data", 0), "data/…: cannot be written (No space left on device)"),
    Fault("the disk of data/ is full", "audit", disk("data", 0), "data/…: cannot be written (No space left on device)"),
    Fault(
        "the disk of data/ fills up",
        "window",
        disk("data", 64),
        "…/data/shards: cannot be written (No space left on device)",
    ),
    Fault(
        "the disk of data/ fills up",
        "baseline",
        disk("data", 64),
        "data/…: cannot be written (No space left on device)",
    ),
    Fault(
        "the disk of models/ fills up",
        "finetune",
        disk("models", 8),
        "models/sigma: cannot be written (No space left on device)",
        writes=SPEED,
    ),
    Fault(
        "the disk of models/ is full",
        "evaluate",
        disk("models", 0),
        "models/…: cannot be written (No space left on device)",
    ),
    Fault(
        "reports/ is a disk of its own",
        "report",
        disk("reports", 4096),
        "reports: cannot be written (Device or resource busy)",
    ),
    Fault(
        "the disk of metrics/ is full",
        "report",
        disk("metrics", 0),
        "metrics/…: cannot be written (No space left on device)",
    ),
    Fault("files may not grow", "baseline", largest_file(8), "data/…: cannot be written (File too large)"),
    Fault("files may not grow", "window", largest_file(16), "…/data/shards: cannot be written (File too large)"),
    Fault("data is a file", "fetch", a_file_for("data"), "data/…: cannot be written (File exists)"),
    Fault("models is a file", "finetune", a_file_for("models"), "models/sigma: cannot be written (…)", writes=SPEED),
    Fault(
        "base.json is a folder",
        "fetch",
        a_folder_for("data/base.json"),
        "data/base.json: cannot be written (Is a directory)",
    ),
    Fault(
        "base.json is a folder", "baseline", a_folder_for("data/base.json"), "data/base.json: not readable as JSON (…)"
    ),
    Fault(
        "the Hub's cache is gone",
        "fetch",
        parameters(fetch__base={"source": "nobody/nothing", "revision": COMMIT}),
        f"params.yaml: fetch.base: nobody/nothing@{COMMIT}: it is not whole in the cache …, and the Hub cannot be …",
    ),
    Fault(
        "the Hub's cache is gone, after the fetch",
        "baseline",
        lambda project: project.json(
            "data/base.json", lambda base: base.update(source="nobody/nothing", revision=COMMIT)
        ),
        f"nobody/nothing@{COMMIT}: it is not whole in the cache …; fetch it again (sigma fetch)",
    ),
    Fault(
        "a link to outside",
        "fetch",
        linked(TABLE, "../../../outside"),
        f"{TABLE}: a link that leaves the dataset's folder; …",
    ),
    Fault(
        "a link to itself",
        "fetch",
        linked(TABLE, "file-000.parquet"),
        f"{TABLE}: not found, but the metadata names it; …",
    ),
    Fault(
        "a link within the dataset",
        "fetch",
        linked(TABLE, "../elsewhere"),
        "fetch: 8 episodes, …",
        recovers="the content is copied, the link is not",
        writes=("data/", "logs"),
    ),
    Fault(
        "no place for checkpoints",
        "finetune",
        scratch_is_a_file,
        "…/scratch/…: no place for checkpoints (Not a directory); set SIGMA_SCRATCH",
    ),
    Fault(
        "a checkpoint that is cut off",
        "finetune",
        lambda project: _state(project, b"PK\x03\x04 but no more"),
        "…/state.pt: checkpoint not readable (…); delete it to train from the start",
    ),
]


def _state(project: Project, content: bytes) -> None:
    file = trainings_state(project)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
