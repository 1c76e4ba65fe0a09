"""A fault: what is done to a finished project, the command that then runs, and how that must end."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sigma.cli import app as cli
from tests.worlds import inside, merge

PREFIX = "sigma: error: "
# Long work tells how far it is, on standard error too; see sigma/shared/progress.py.
PROGRESS = re.compile(r"[\w :]+: \d+/\d+.*")


@dataclass(frozen=True)
class Project:
    """A finished project of a test's own; paths are relative to its root. ``stack`` undoes what outlives the files."""

    root: Path
    stack: ExitStack

    def path(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file, or make it with its folders."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def json(self, name: str, change: Callable[[Any], Any]) -> None:
        """Change a JSON file in place; what ``change`` returns, where it does, takes the content's place."""
        data = json.loads(self.path(name).read_text())
        changed = change(data)
        self.write(name, json.dumps(data if changed is None else changed))

    def parameters(self, changes: Mapping[str, Any]) -> None:
        """Merge changes into params.yaml."""
        from ruamel.yaml import YAML

        yaml = YAML(typ="safe")
        values = merge(yaml.load(self.path("params.yaml")), changes)
        with self.path("params.yaml").open("w") as file:
            yaml.dump(values, file)

    def remove(self, name: str) -> None:
        path = self.path(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def files(self) -> dict[str, tuple[int, int, int]]:
        """Every file with what changes when it is written: size, time and inode; folders by their name alone."""
        found = {}
        for item in sorted(self.root.rglob("*")):
            stat = item.lstat()
            regular = item.is_symlink() or item.is_file()
            found[item.relative_to(self.root).as_posix()] = (
                (stat.st_size, stat.st_mtime_ns, stat.st_ino) if regular else (0, 0, 0)
            )
        return found


@dataclass(frozen=True)
class Fault:
    """One row of the matrix.

    Attributes:
        what: what is done, in words.
        command: arguments of ``sigma``.
        inject: does it.
        line: the one line that must come, where … stands for anything; without ``sigma: error:``.
        recovers: for a documented recovery, what happens instead of an error; ``line`` is then what is printed.
        writes: beginnings of the names of outputs that are written all the same.
    """

    what: str
    command: str
    inject: Callable[[Project], Any]
    line: str
    recovers: str = ""
    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ending:
    """How a command ended: its status, and both streams."""

    status: int
    out: str
    err: str
    changed: list[str] = field(default_factory=list)


def fits(pattern: str, text: str) -> bool:
    """Whether ``text`` is ``pattern``, in which … stands for anything."""
    return re.fullmatch(".*?".join(map(re.escape, pattern.split("…"))), text) is not None


@contextmanager
def project_of(finished: Path, folder: Path) -> Iterator[Project]:
    """A copy of the finished project in ``folder``; environment, limits and mounts are restored afterwards."""
    shutil.copytree(finished, folder, symlinks=True)
    with ExitStack() as stack, mock.patch.dict(os.environ):
        os.environ["SIGMA_SCRATCH"] = str(folder.parent / "scratch")
        yield Project(folder, stack)


def run(project: Project, command: str, capture: pytest.CaptureFixture) -> Ending:
    """Run ``sigma COMMAND`` in this process; ``capture`` reads at the level of file descriptors."""
    before = project.files()
    capture.readouterr()
    with inside(project.root), mock.patch.object(sys, "argv", ["sigma", *command.split()]):
        try:
            cli.main()
            status = 0
        except SystemExit as error:
            status = error.code or 0
    out, err = capture.readouterr()
    after = project.files()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return Ending(status, out, err, changed)


def as_fetched(change: Callable[[Project], Any]) -> Callable[[Project], None]:
    """A change of ``data/dataset`` that its record knows: the dataset was fetched so."""

    def inject(project: Project) -> None:
        from sigma.shared.files import digest_folder

        change(project)
        digest = digest_folder(project.path("data/dataset"))
        project.json("data/dataset.json", lambda record: record.update(digest=digest))

    return inject


def set_value(key: str, value: Any) -> Callable[[Any], None]:
    """A change of JSON content: ``value`` at a dotted key, where a number counts in a list."""

    def change(data: Any) -> None:
        *path, last = (int(part) if part.isdigit() else part for part in key.split("."))
        for part in path:
            data = data[part]
        data[last] = value

    return change


def without(key: str) -> Callable[[Any], None]:
    """A change of JSON content: the dotted key is gone."""

    def change(data: Any) -> None:
        *path, last = (int(part) if part.isdigit() else part for part in key.split("."))
        for part in path:
            data = data[part]
        del data[last]

    return change


def flip(name: str, position: int = -5) -> Callable[[Project], None]:
    """One bit of a file is another."""

    def inject(project: Project) -> None:
        content = bytearray(project.path(name).read_bytes())
        content[position] ^= 1
        project.write(name, bytes(content))

    return inject


def cut(name: str, bytes_left: int | None = None) -> Callable[[Project], None]:
    """A file ends early: at half of its length, or after ``bytes_left``."""

    def inject(project: Project) -> None:
        content = project.path(name).read_bytes()
        project.write(name, content[: len(content) // 2 if bytes_left is None else bytes_left])

    return inject


def gone(name: str) -> Callable[[Project], None]:
    return lambda project: project.remove(name)


def json_with(name: str, key: str, value: Any) -> Callable[[Project], None]:
    return lambda project: project.json(name, set_value(key, value))


def json_without(name: str, key: str) -> Callable[[Project], None]:
    return lambda project: project.json(name, without(key))


def content(name: str, text: str | bytes) -> Callable[[Project], None]:
    return lambda project: project.write(name, text)


def parameters(**changes: Any) -> Callable[[Project], None]:
    """``window__seed=3`` sets ``window.seed`` in params.yaml."""
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        for part in reversed(name.split("__")):
            value = {part: value}
        nested = merge(nested, value)
    return lambda project: project.parameters(nested)


def together(*injections: Callable[[Project], Any]) -> Callable[[Project], None]:
    """Several changes, one after the other."""

    def inject(project: Project) -> None:
        for one in injections:
            one(project)

    return inject


def windowed(project: Project) -> None:
    """The window stage has run again, with the parameters as they are."""
    from sigma.commands import window
    from sigma.parameters import read_parameters

    with inside(project.root):
        window.run(read_parameters())


def table_with(name: str, change: Callable[[Any], Any]) -> Callable[[Project], None]:
    """A Parquet file whose table went through ``change``."""

    def inject(project: Project) -> None:
        import pyarrow.parquet

        path = project.path(name)
        pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path)

    return inject


def column(name: str, change: Callable[[list[Any]], list[Any]], kind: Any = None) -> Callable[[Any], Any]:
    """A change of a table: the values of one column went through ``change``."""

    def changed(table: Any) -> Any:
        import pyarrow

        values = pyarrow.array(change(table[name].to_pylist()), type=kind)
        return table.set_column(table.column_names.index(name), name, values)

    return changed
