"""What makes a stage stale, asked of DVC: every file of the package and every parameter against what stages really use.

Sources are compared with the imports that the static analysis finds, parameters with the values that the stages read
while they run. The project is one whose stages are all recorded; their outputs are stand-ins, as DVC only compares.
"""

import copy
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from dvc.repo import Repo

from sigma.data.dataset import fit
from sigma.parameters.schema import Section, read_yaml
from sigma.shared.files import read_json
from tests.imports import NO_DEPENDENCY, ROOT, lies_in
from tests.parameters.test_parameters import SHIPPED, leaves, shipped
from tests.pipeline.test_stages import PIPELINE, command_of
from tests.projects import change_parameters, make_project
from tests.worlds import World, inside

# Read where several processes are started, which is tests/commands/test_processes.py's.
WITH_SEVERAL = {"machine.fsdp"}


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Iterator[Repo]:
    """A project with every stage of the root pipeline recorded as run."""
    folder = make_project(tmp_path_factory.mktemp("cache") / "project", {})
    for stage in PIPELINE.values():
        for name in (*stage["outs"], *(next(iter(one)) for one in stage.get("metrics", ()))):
            path = folder / name
            inner = [dep for one in PIPELINE.values() for dep in one["deps"] if dep.startswith(f"{name}/")]
            for file in inner or [name]:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(str(path.relative_to(folder)))
    with inside(folder):
        recorded = Repo(str(folder))
        with recorded.lock:
            for stage in recorded.index.stages:
                stage.save(run_cache=False)
                stage.commit()
                stage.dump(update_pipeline=False)
        yield Repo(str(folder))


def stale(repo: Repo) -> dict[str, set[str]]:
    """Stage -> the dependencies of it that DVC finds changed, parameters by their key."""
    found: dict[str, set[str]] = defaultdict(set)
    for stage, reasons in repo.status().items():
        for reason in reasons:
            assert set(reason) == {"changed deps"}, (stage, reason)
            for name, change in reason["changed deps"].items():
                found[stage] |= set(change) if name == "params.yaml" else {name}
    return dict(found)


def package_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "sigma"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_a_recorded_pipeline_has_nothing_stale(repo):
    assert stale(repo) == {}


def test_an_edit_of_any_file_of_the_package_makes_those_stages_stale_whose_deps_hold_it(repo):
    folder, files = Path(repo.root_dir), package_files()
    before = {name: (folder / name).read_bytes() for name in files}
    try:
        for name, content in before.items():
            (folder / name).write_bytes(content + b"\n")
        found = stale(repo)
    finally:
        for name, content in before.items():
            (folder / name).write_bytes(content)
    assert stale(repo) == {}
    code = {stage: {name for name in entry["deps"] if name.startswith("sigma/")} for stage, entry in PIPELINE.items()}
    assert found == code


def test_a_new_module_in_a_folder_makes_its_stages_stale_and_what_python_and_people_leave_there_does_not(repo):
    folder = Path(repo.root_dir)
    left = [folder / "sigma/data/windows/__pycache__/new.cpython-312.pyc", folder / "sigma/data/windows/notes.md"]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("left")
    assert stale(repo) == {}
    new = folder / "sigma/data/windows/new.py"
    new.write_text("")
    assert stale(repo) == {"window": {"sigma/data/windows"}}
    for file in (*left, new):
        file.unlink()
    assert stale(repo) == {}


def named(value: object, path: str) -> Iterator[tuple[Section, str]]:
    """Every section object within a section, with its dotted name."""
    if isinstance(value, Section):
        yield value, path
        for name in type(value).model_fields:
            yield from named(getattr(value, name), f"{path}.{name}")


@pytest.fixture(scope="module")
def reads(prepared, tmp_path_factory) -> dict[str, set[str]]:
    """Stage -> the parameters that it looks at while it runs on a small world.

    A dump that only names a training's state, so that no other training finds it, is no look; nor is what an early
    stage looks at to refuse what a later one could not use.
    """
    found: dict[str, set[str]] = defaultdict(set)
    names: dict[int, str] = {}
    plain, dump = Section.__getattribute__, Section.model_dump

    def seen(section: Section, field: str) -> None:
        if id(section) in names:
            found[current[0]].add(f"{names[id(section)]}.{field}")

    def looked(self: Section, name: str):
        if name in type(self).model_fields:
            seen(self, name)
        return plain(self, name)

    def count(section: Section, path: str, fields: set[str]) -> None:
        for field in fields:
            found[current[0]].add(f"{path}.{field}")
            if isinstance(value := plain(section, field), Section):
                count(value, f"{path}.{field}", set(type(value).model_fields))

    def dumped(self: Section, **options):
        if sys._getframe(1).f_code.co_name != "sections":
            fields = set(type(self).model_fields)
            fields &= set(options.get("include") or fields) - set(options.get("exclude") or ())
            count(self, names.get(id(self), ""), fields)
        return dump(self, **options)

    def refusing(*arguments, check=fit.check_fit) -> None:
        stage, current[0] = current[0], ""
        check(*arguments)
        current[0] = stage

    current = [""]
    world = World(tmp_path_factory.mktemp("reads"))
    for part in ("base", "recorded"):
        (world.root / part).symlink_to((prepared.root / part).resolve())
    patch = pytest.MonkeyPatch()
    patch.setenv("SIGMA_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
    try:
        parameters = world.configure()
        for section, model in parameters:
            names.update({id(one): path for one, path in named(model, section)})
        patch.setattr(Section, "__getattribute__", looked)
        patch.setattr(Section, "model_dump", dumped)
        patch.setattr(fit, "check_fit", refusing)
        with inside(world.root):
            for stage in PIPELINE:
                current[0] = stage
                import_module(f"sigma.commands.{command_of(stage)}").run(parameters)
    finally:
        patch.undo()
    found.pop("", None)
    return dict(found)


def other(value: object) -> object:
    """Another value of any kind; DVC compares, it does not validate."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    return [*value, "x"] if isinstance(value, list) else "x"


def test_a_change_of_any_parameter_makes_just_those_stages_stale_that_read_it(repo, reads):
    folder = Path(repo.root_dir)
    file = folder / "params.yaml"
    before = file.read_text(encoding="utf-8")
    readers = {
        ".".join(path): {stage for stage, keys in reads.items() if ".".join(path) in keys} for path in leaves(SHIPPED)
    }
    waiting: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for path in leaves(SHIPPED):
        waiting[path[0]].append(path)
    found: dict[str, set[str]] = {}
    try:
        # One parameter of each section at a time: DVC names the section or the key that it found changed.
        for turn in range(max(map(len, waiting.values()))):
            turned = [paths[turn] for paths in waiting.values() if turn < len(paths)]
            changes: dict = {}
            for path in turned:
                node = changes
                for key in path[:-1]:
                    node = node.setdefault(key, {})
                node[path[-1]] = other(copy.deepcopy(shipped(path)))
            file.write_text(before, encoding="utf-8")
            change_parameters(folder, changes)
            changed = stale(repo)
            for path in turned:
                name = ".".join(path)
                found[name] = {
                    stage
                    for stage, keys in changed.items()
                    for key in keys
                    if name == key or name.startswith(f"{key}.")
                }
    finally:
        file.write_text(before, encoding="utf-8")
    assert stale(repo) == {}
    for name, stages in found.items():
        section = name.split(".")[0]
        if section == "machine":
            assert stages == set() and (readers[name] or name in WITH_SEVERAL), name
        else:
            assert stages == readers[name], name
    assert set(found) == {".".join(path) for path in leaves(read_yaml(ROOT / "params.yaml"))}


LOADED = """
import json, sys
from pathlib import Path
from sigma.cli.app import main
try:
    main()
finally:
    files = {getattr(module, "__file__", None) for name, module in sys.modules.items() if name.split(".")[0] == "sigma"}
    Path("loaded.json").write_text(json.dumps(sorted(filter(None, files))))
"""


@pytest.mark.slow
def test_no_stage_loads_a_module_whose_edit_would_pass_unseen(prepared, tmp_path):
    """Beside the static analysis: what is really in memory when a stage ends."""
    world = World(tmp_path)
    for part in ("base", "recorded"):
        (tmp_path / part).symlink_to((prepared.root / part).resolve())
    world.configure()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SIGMA_SCRATCH": str(tmp_path / "scratch")}
    for stage, entry in PIPELINE.items():
        command = [sys.executable, "-c", LOADED, command_of(stage)]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        loaded = {Path(file).relative_to(ROOT).as_posix() for file in read_json(tmp_path / "loaded.json")}
        assert f"sigma/commands/{command_of(stage)}.py" in loaded
        loaded = {name for name in loaded if (ROOT / name).stat().st_size and not name.startswith(NO_DEPENDENCY)}
        assert not [name for name in loaded if not lies_in(name, entry["deps"])], stage
