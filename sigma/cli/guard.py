"""What keeps DVC's record true: one run at a time, and no input that is edited while a stage runs.

DVC releases its locks when it ends, but a killed ``dvc`` leaves its command running, and that command still writes. DVC
also records parameters and sources only when a command has ended, so an edit made meanwhile would be recorded as what
was run. Nothing here changes what a stage computes.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sigma.shared.errors import SigmaError

LOCKS, SOURCES = Path(".dvc/tmp"), Path("sigma")
PACKAGE = Path(__file__).resolve().parents[1]
TEMPLATE = re.compile(r"\$\{[^}]*\}")


@contextmanager
def alone(name: str, command: str) -> Iterator[None]:
    """Hold the lock ``name`` of this project; the operating system releases it however the process ends.

    Raises :class:`SigmaError`, which names the process, where another process holds the lock. A folder without ``.dvc``
    has no record to protect, so nothing is locked.
    """
    if not LOCKS.parent.is_dir():
        yield
        return
    from filelock import FileLock, Timeout

    LOCKS.mkdir(exist_ok=True)
    file = LOCKS / f"sigma-{name}.lock"
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        process, _, running = file.read_text(encoding="utf-8").partition(" ")
        holder = f"`sigma {running}` (process {process})" if running else "another run"
        raise SigmaError(
            f"{command}: {holder} still works in this project; wait until it has ended, or end it, and run again"
        ) from None
    try:
        file.write_text(f"{os.getpid()} {command}", encoding="utf-8")
        yield
    finally:
        lock.release()


def find_stage(arguments: Sequence[str], address: str, root: Path = Path()) -> dict[str, Any]:
    """The stage of a ``dvc.yaml`` whose command is ``python -m sigma ARGUMENTS``; empty where no file has one.

    ``address`` is ``$DVC_STAGE``. Only its stage name is used: its path is relative to the folder in which DVC was
    started, which is not known here, so every ``dvc.yaml`` is searched for the command.
    """
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)  # DVC has accepted these files
    name = address.rpartition(":")[2].partition("@")[0]
    command = " ".join(("python -m sigma", *arguments))
    for file in (root / "dvc.yaml", *sorted(root.glob("stages/*/dvc.yaml"))):
        stage = yaml.load(file).get("stages", {}).get(name) if file.is_file() else None
        if stage:
            literals = TEMPLATE.split(" ".join(stage["cmd"].split()))
            if re.fullmatch(r"\S+".join(map(re.escape, literals)), command):
                return stage
    return {}


def _values(parameters: Sequence[Any]) -> dict[str, Any]:
    """Values of a stage's ``params`` by file and key; of a key with a template, the section before the template."""
    from sigma.parameters.schema import PARAMS_FILE, read_yaml

    files = [entry if isinstance(entry, dict) else {str(PARAMS_FILE): [entry]} for entry in parameters]
    values: dict[str, Any] = {}
    for file, keys in (item for entry in files for item in entry.items()):
        data = read_yaml(Path(file))
        for key in keys:
            value: Any = data
            for part in TEMPLATE.split(key)[0].strip(".").split("."):
                value = value.get(part) if isinstance(value, dict) else None
            values[f"{file}: {key}"] = value
    return values


def _digest_sources(path: Path) -> dict[str, str]:
    """Digests of a file, or of a folder's files without what .dvcignore names: compiled modules and Markdown pages."""
    from sigma.shared.files import digest_file

    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file): digest_file(file) for file in files if file.is_file() and file.suffix not in (".pyc", ".md")}


def inputs(stage: dict[str, Any]) -> dict[str, Any]:
    """The present parameters and source digests that a stage of ``dvc.yaml`` depends on, by name.

    Data is left out: only stages write it, and DVC keeps them from running at the same time.
    """
    values = _values(stage.get("params", ()))
    sources = [name for name in stage.get("deps", ()) if name.startswith("sigma/") or name == "uv.lock"]
    return values | {name: _digest_sources(Path(name)) for name in sources}


def clear(stage: dict[str, Any]) -> None:
    """Remove the temporary files that killed runs left beside a stage's outputs; see :mod:`sigma.shared.files`."""
    for entry in (*stage.get("outs", ()), *stage.get("metrics", ())):
        path = Path(entry if isinstance(entry, str) else next(iter(entry)))
        for leftover in path.parent.glob(f".{path.name}.*"):
            if re.fullmatch(r"[a-z0-9_]{8}(\.old)?", leftover.name.removeprefix(f".{path.name}.")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@contextmanager
def guard(arguments: Sequence[str], pipeline: Collection[str]) -> Iterator[None]:
    """Run one command of the command line under a lock, and under DVC only with inputs that stay as they are.

    The commands in ``pipeline`` exclude each other; a study's stage excludes only the same stage.

    Raises :class:`SigmaError` where another run holds the lock, and, under DVC, where the running code is not this
    folder's or an input was edited meanwhile: the exit status then keeps DVC from recording the result.
    """
    command = " ".join(arguments)
    recorded_as = os.environ.get("DVC_STAGE")
    if command not in pipeline and recorded_as is None:
        yield
        return
    name = "pipeline" if command in pipeline else hashlib.sha256(command.encode()).hexdigest()[:16]
    if recorded_as is not None and SOURCES.is_dir() and not SOURCES.samefile(PACKAGE):
        raise SigmaError(
            f"{command}: the code that runs is {PACKAGE}, not {SOURCES} of this folder, whose files DVC "
            "would record; call it as python -m sigma, without PYTHONSAFEPATH"
        )
    with alone(name, command):
        stage = {} if recorded_as is None else find_stage(arguments, recorded_as)
        if command in pipeline:
            clear(stage)
        before = inputs(stage)
        try:
            yield
        except SystemExit as end:  # how the command line ends, well or not
            if end.code:
                raise
        after = inputs(stage)
        for key, value in before.items():
            if value != after[key]:
                raise SigmaError(
                    f"{command}: {key} was edited while it ran; what it made belongs to what was there before and is "
                    "not recorded; run dvc repro again"
                )
