"""dvc.yaml says what is true: dependencies, parameters, and how the graph hangs together."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.imports import NO_DEPENDENCY, ROOT, closure, lies_in

yaml = YAML(typ="safe")
PIPELINE = yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMETERS = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
COMPUTES = {"baseline", "finetune", "sigma"}
STUDIES = {
    "rollout": "study/play/rollout",
    "study record": "study/data/record",
    "study data": "study/data/data",
    "study cells": "study/cells/cells",
    "study trial": "study/train/trial",
    "study rates": "study/cells/rates",
    "study round": "study/correct/round",
    "study rounds": "study/correct/score",
    "study train": "study/train/train",
    "study play": "study/play/arm",
    "study swap": "study/swap/swap",
    "study score": "study/score/score",
    "study page": "study/score/page",
    "pretrain": "world/pretrain",
    "closed-loop": "world/base_success",
    "benchmark-page": "benchmark/benchmark_page",
}


def command_of(stage: str) -> str:
    words = PIPELINE[stage]["cmd"].split()
    assert words[:3] == ["python", "-m", "sigma"], "the console script would run the original checkout in an experiment"
    return words[3]


def check_code(dependencies: list[str], modules: set[str]) -> None:
    """Every module that a stage imports lies in its dependencies, and it depends on no code that it does not import."""
    assert not [path for path in modules if not lies_in(path, dependencies)]
    code = [name for name in dependencies if name.startswith("sigma/") and not name.startswith("sigma/embedded")]
    assert not [name for name in code if not any(lies_in(path, [name]) for path in modules)]
    assert not [name for name in code if name.startswith(NO_DEPENDENCY)]


@pytest.mark.parametrize("stage", PIPELINE)
def test_the_code_that_a_stage_imports_lies_in_its_deps_and_no_other_does(stage):
    check_code(PIPELINE[stage]["deps"], set(closure(f"sigma/commands/{command_of(stage)}.py")))


@pytest.mark.parametrize("stage", PIPELINE)
def test_deps_of_code_are_folders_but_for_the_stages_command_and_the_shards(stage):
    files = {name for name in PIPELINE[stage]["deps"] if name.endswith(".py")}
    assert files <= {f"sigma/commands/{command_of(stage)}.py", "sigma/data/shards.py"}


def further_stages():
    for path in sorted(ROOT.glob("stages/*/dvc.yaml")):
        for name, stage in yaml.load(path.read_text(encoding="utf-8"))["stages"].items():
            yield pytest.param(stage, id=f"{path.parent.name}-{name}")


def modules_of(command: list[str]) -> set[str]:
    """What ``python -m sigma COMMAND …`` imports, and of a benchmark what its part imports."""
    if command[0] == "benchmark":
        folder = "sigma/studies/benchmark"
        return {*closure(f"{folder}/benchmark.py"), *closure(f"{folder}/time_{command[1]}.py")}
    if command[0] == "simulate":
        return set(closure("sigma/tools/simulate.py"))
    name = " ".join(command[:2]) if command[0] == "study" else command[0]
    modules = set(closure(f"sigma/studies/{STUDIES[name]}.py"))
    if name in ("study data", "study round"):  # they run the root pipeline's own stages
        from sigma.studies.study.data.data import STAGES

        modules |= {module for stage in STAGES for module in closure(f"sigma/commands/{stage}.py")}
    return modules


@pytest.mark.parametrize("stage", further_stages())
def test_the_code_that_a_further_stage_imports_lies_in_its_deps(stage):
    command = stage["cmd"].split()[3:]
    assert stage["desc"]
    if command[:2] == ["benchmark", "startup"]:
        assert "sigma" in stage["deps"], "it measures how the whole package starts"
    else:
        check_code(stage["deps"], modules_of(command))


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
    listed = [name for stage in PIPELINE.values() for name in stage.get("params", ())]
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
