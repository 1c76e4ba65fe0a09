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

from sigma.cli import _OWNERS
from sigma.io import read_json
from sigma.parameters import Section, read_yaml
from tests.imports import EXEMPT, ROOT, closure
from tests.pipeline.test_stages import PIPELINE, command_of, yaml
from tests.projects import change_parameters, make_project
from tests.test_parameters import SHIPPED, leaves, shipped
from tests.worlds import ADAPTED, World, inside

# What no stage of the root pipeline depends on, and why its results cannot change with it.
DISPATCH = "starts commands, locks, logs: holds nothing that a result depends on"
TOOL = "a tool that people call; no stage runs it"
LEROBOT = "Sigma inside LeRobot's own tools; no stage runs it"
SETTINGS = "settings that `sigma profile use` writes into params.yaml, which stages do depend on"
EMPTY = "an empty package file; tests/pipeline/test_stages.py asks for it as soon as it holds something"
FURTHER = "a stage of stages/*/dvc.yaml depends on it"
REASONS = {
    "sigma/simulation/__init__.py": "chooses the GL library that draws by what the machine has: no file could tell it",
    "sigma/data/checks.md": "a page that is written from the checks and read by nobody but people",
    **dict.fromkeys(EXEMPT, DISPATCH),
    **{
        f"sigma/commands/{name}.py": TOOL
        for name in ("compare", "embed", "export", "figures", "plan", "profile", "publish", "rehearse")
    },
    **dict.fromkeys(
        (
            "sigma/policy/footprint.py",
            "sigma/report/card.py",
            "sigma/report/readme.py",
            "sigma/report/readme_doubts.py",
        ),
        TOOL,
    ),
    **dict.fromkeys(
        (
            "sigma/lerobot_environment.py",
            "sigma/policy/configuration_sigma.py",
            "sigma/policy/modeling_sigma.py",
            "sigma/policy/policy_folder.py",
            "sigma/policy/processor_sigma.py",
            "sigma/simulation/lerobot_env.py",
        ),
        LEROBOT,
    ),
    **{f"sigma/profiles/{name}.yaml": SETTINGS for name in ("embedded", "pi05_so101", "pi05_so101_adapted", "source")},
}
# Not Python, and read by a stage all the same.
READ_BY = {"sigma/embedded/": "fetch", "sigma/report/templates/page.html": "report"}
READ_BY |= {"sigma/report/templates/style.css": "report"}
# Read where several processes are started, which is tests/commands/test_processes.py's.
WITH_SEVERAL = {"machine.fsdp"}
# A parameter that a stage lists though its run never looks at it.
UNREAD = {"eval.calibration_split": "validation is the only legal value"}


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


def test_an_edit_of_any_file_of_the_package_makes_just_those_stages_stale_that_use_it(repo):
    folder, files = Path(repo.root_dir), package_files()
    imported = {stage: set(closure(f"sigma/commands/{command_of(stage)}.py")) for stage in PIPELINE}
    before = {name: (folder / name).read_bytes() for name in files}
    try:
        for name, content in before.items():
            (folder / name).write_bytes(content + b"\n")
        found = stale(repo)
    finally:
        for name, content in before.items():
            (folder / name).write_bytes(content)
    assert stale(repo) == {}
    for name in files:
        expected = {stage for stage, modules in imported.items() if name in modules}
        expected |= {stage for prefix, stage in READ_BY.items() if name.startswith(prefix)}
        seen = {stage for stage, names in found.items() for one in names if name == one or name.startswith(f"{one}/")}
        assert seen == expected, name
    assert set().union(*found.values()) - set(files) == {"sigma/embedded"}


def test_every_file_that_no_stage_depends_on_has_its_reason():
    further = {
        dependency
        for file in ROOT.glob("stages/*/dvc.yaml")
        for stage in yaml.load(file.read_text(encoding="utf-8"))["stages"].values()
        for dependency in stage["deps"]
    }
    root = {dependency for stage in PIPELINE.values() for dependency in stage["deps"]}
    reasons = {}
    for name in package_files():
        if name in root or any(name.startswith(f"{one}/") for one in root):
            assert name not in REASONS, f"{name}: a stage depends on it"
        elif name in further:
            reasons[name] = FURTHER
        elif name.endswith("__init__.py") and not (ROOT / name).stat().st_size:
            reasons[name] = EMPTY
        else:
            assert name in REASONS, f"{name}: no stage depends on it; say why in REASONS"
            reasons[name] = REASONS[name]
    assert set(REASONS) <= set(reasons), set(REASONS) - set(reasons)


def named(value: object, path: str) -> Iterator[tuple[Section, str]]:
    """Every section object within a section, with its dotted name."""
    if isinstance(value, Section):
        yield value, path
        for name in type(value).model_fields:
            yield from named(getattr(value, name), f"{path}.{name}")


@pytest.fixture(scope="module")
def reads(prepared, tmp_path_factory) -> dict[str, set[str]]:
    """Stage -> the parameters that it looks at while it runs on a small world, with either base branch.

    A dump that only names a training's state, so that no other training finds it, is no look.
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

    def dumped(self: Section, **options):
        if sys._getframe(1).f_globals["__name__"] not in ("sigma.training.setup", "sigma.training.trainer"):
            for one, path in list(named(self, names.get(id(self), ""))):
                for field in type(one).model_fields:
                    found[current[0]].add(f"{path}.{field}")
        return dump(self, **options)

    current = [""]
    world = World(tmp_path_factory.mktemp("reads"))
    for part in ("base", "recorded"):
        (world.root / part).symlink_to((prepared.root / part).resolve())
    patch = pytest.MonkeyPatch()
    patch.setenv("SIGMA_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
    try:
        for changes in ({}, ADAPTED):
            parameters = world.configure(changes)
            names.clear()
            for section, model in parameters.items():
                names.update({id(one): path for one, path in named(model, section)})
            patch.setattr(Section, "__getattribute__", looked)
            patch.setattr(Section, "model_dump", dumped)
            with inside(world.root):
                for stage in PIPELINE:
                    if changes and stage in ("fetch", "audit", "window", "baseline"):
                        continue
                    current[0] = stage
                    import_module(f"sigma.commands.{command_of(stage)}").run(parameters)
            patch.undo()
            patch.setenv("SIGMA_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
    finally:
        patch.undo()
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
        elif name in UNREAD:
            assert stages == {"sigma"} and readers[name] == set(), name
        else:
            assert stages == readers[name], name
    assert set(found) == {".".join(path) for path in leaves(read_yaml(ROOT / "params.yaml"))}


LOADED = """
import json, sys
from pathlib import Path
from sigma.cli import main
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
    world.configure(ADAPTED)
    owners = {f"{module.replace('.', '/')}.py" for module in _OWNERS}  # whose parameter models check the whole file
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SIGMA_SCRATCH": str(tmp_path / "scratch")}
    for stage, entry in PIPELINE.items():
        command = [sys.executable, "-c", LOADED, command_of(stage)]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        loaded = {Path(file).relative_to(ROOT).as_posix() for file in read_json(tmp_path / "loaded.json")}
        assert f"sigma/commands/{command_of(stage)}.py" in loaded
        allowed = {*entry["deps"], *owners, *EXEMPT}
        assert {name for name in loaded - allowed if (ROOT / name).stat().st_size} == set(), stage
