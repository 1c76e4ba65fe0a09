"""dvc.yaml says what is true: dependencies, parameters, and how the graph hangs together."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.imports import EXEMPT, ROOT, closure

yaml = YAML(typ="safe")
PIPELINE = yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMETERS = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
COMPUTES = {"baseline", "finetune", "sigma"}


def command_of(stage: str) -> str:
    words = PIPELINE[stage]["cmd"].split()
    assert words[:3] == ["python", "-m", "sigma"], "the console script would run the original checkout in an experiment"
    return words[3]


@pytest.mark.parametrize("stage", PIPELINE)
def test_deps_name_every_module_that_the_stage_imports_and_no_other(stage):
    listed = {path for path in PIPELINE[stage]["deps"] if path.endswith(".py")}
    assert listed == set(closure(f"sigma/commands/{command_of(stage)}.py"))
    assert not listed & EXEMPT


def further_stages():
    for path in sorted(ROOT.glob("stages/*/dvc.yaml")):
        for name, stage in yaml.load(path.read_text(encoding="utf-8"))["stages"].items():
            yield pytest.param(stage, id=f"{path.parent.name}-{name}")


def modules_of(command: list[str]) -> set[str]:
    """What ``python -m sigma COMMAND …`` imports, and of a benchmark what its part imports and what that measures."""
    found = set(closure(f"sigma/commands/{command[0].replace('-', '_')}.py"))
    if command[0] == "benchmark":
        found |= set(closure(f"sigma/benchmark/{command[1]}.py"))
    if command[:2] == ["benchmark", "startup"]:
        found |= EXEMPT | set(closure("sigma/commands/report.py"))
    return found


@pytest.mark.parametrize("stage", further_stages())
def test_further_stages_too_name_every_module_that_they_import(stage):
    listed = {path for path in stage["deps"] if path.endswith(".py")}
    assert listed == modules_of(stage["cmd"].split()[3:])
    assert stage["desc"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_stage_is_described_and_every_dependency_exists_or_is_made(stage):
    assert PIPELINE[stage]["desc"]
    made = [out for other in PIPELINE.values() for out in other.get("outs", [])]
    for dependency in PIPELINE[stage]["deps"]:
        by_a_stage = any(dependency == out or dependency.startswith(f"{out}/") for out in made)
        assert by_a_stage or (ROOT / dependency).exists(), dependency


def test_stages_that_compute_with_a_model_depend_on_the_lock():
    assert {stage for stage in PIPELINE if "uv.lock" in PIPELINE[stage]["deps"]} == COMPUTES


def test_every_parameter_but_the_machine_belongs_to_a_stage():
    listed = [name for stage in PIPELINE.values() for name in stage["params"]]
    for section, values in PARAMETERS.items():
        if section == "machine":
            assert not any(name.split(".")[0] == "machine" for name in listed)
            continue
        keys = {f"{section}.{key}" for key in values}
        assert section in listed or keys <= set(listed), section
    for name in listed:
        node = PARAMETERS
        for part in name.split("."):
            node = node[part]


def test_only_fetch_audit_and_window_read_the_dataset():
    readers = {stage for stage in PIPELINE if any(dep.startswith("data/dataset") for dep in PIPELINE[stage]["deps"])}
    assert readers == {"audit", "window"}


def test_no_root_stage_has_an_ancestor_under_stages():
    for stage in PIPELINE.values():
        assert not any(Path(dependency).parts[0] == "stages" for dependency in stage["deps"])


def test_importing_a_later_stage_never_imports_the_simulation():
    for stage in PIPELINE:
        assert not any("simulation" in path for path in closure(f"sigma/commands/{command_of(stage)}.py"))


def test_every_parameter_has_a_comment():
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        text = line.strip()
        is_value = ":" in text and not text.startswith(("#", "-")) and text.split(":", 1)[1].strip()
        if is_value:
            assert "#" in line or lines[number - 1].strip().startswith("#"), line
