"""Every figure comes out on a tiny project, and is a ratio of what was measured."""

from collections import Counter
from dataclasses import replace
from importlib import import_module

import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json
from sigma.studies.benchmark.catalogue import CATALOGUE
from sigma.studies.benchmark.measure import NotMeasured
from sigma.studies.benchmark.run import record_of
from sigma.studies.benchmark.subprocesses import environment, run
from sigma.studies.benchmark.time_startup import DVC
from sigma.studies.benchmark.time_windowing import prepare
from tests.studies.benchmark.projects import project_of

TRAINED = "decision"  # the part that needs a trained Sigma
PIPELINE = {"repro", "adapter_experiment"}  # need a finished DVC pipeline
STARTS_LOADERS = "loading"  # a minute in which loader processes import LeRobot
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name == STARTS_LOADERS else name
    for name in CATALOGUE
    if name not in PIPELINE
]


def measure(name, project):
    module = import_module(f"sigma.studies.benchmark.time_{CATALOGUE[name].part}")
    return getattr(module, f"measure_{name}")(project)


@pytest.mark.processes
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_comes_out(name, prepared, request):
    world = request.getfixturevalue("trained") if CATALOGUE[name].part == TRAINED else prepared
    record = record_of(name, project_of(world))
    ratio = record["ratio"]
    assert ratio["median"] == pytest.approx(record["own"]["median"] / record["peer_value"]["median"], rel=1e-4)
    assert ratio["median"] > 0 and record["repetitions"] == 1 and record["other_programs"] >= 0
    if name == "windowing_memory":
        assert (record["own"]["episodes"], record["peer_value"]["episodes"]) == (8, 4)
        assert record["own"]["frames"] > record["peer_value"]["frames"] and record["peer_value"]["median"] > 20
    if name == "help":
        assert record["own"]["modules"] > record["peer_value"]["modules"] > 100


def test_a_part_of_the_dataset_is_windowed_as_training_alone(prepared, tmp_path):
    from sigma.parameters.schema import read_yaml

    folder = prepare(project_of(prepared), tmp_path / "few", 6)
    window = read_yaml(folder / "params.yaml")["window"]
    assert (window["validation"], window["test"], window["train_stride"]) == (0, 0, 1)
    assert read_json(folder / "data/episodes.json")["used"] == list(range(6))


def test_what_means_nothing_here_is_left_out_with_its_reason(prepared):
    record = record_of("windowing_memory", project_of(prepared, memory_episodes=[6, 1000]))
    assert "benchmark.memory_episodes asks for 1000" in record["not_measured"] and "ratio" not in record


@pytest.mark.processes
def test_dvc_must_run_just_the_stages_that_a_figure_is_about(prepared, tmp_path, monkeypatch):
    from contextlib import nullcontext

    from sigma.studies.benchmark import time_startup

    calls = Counter()

    def run(command, folder, env):
        calls[command[-1].partition("=")[0]] += 1
        return "Running stage 'a'" if "exp" in command else ""

    monkeypatch.setattr(time_startup, "project_copy", lambda root: nullcontext(tmp_path))
    monkeypatch.setattr(time_startup, "run", run)
    for name in PIPELINE:
        measure(name, project_of(prepared))
    # Once more than the peer: before the rounds, to see which stages run.
    assert calls == {"repro": 2, "root": 1, "adapter.false_alarms": 2, "report": 1}
    monkeypatch.setattr(time_startup, "run", lambda *_: "Running stage 'a'\nRunning stage 'b'")
    with pytest.raises(SigmaError, match="2 stages ran instead of 1"):
        measure("adapter_experiment", project_of(prepared))


@pytest.mark.slow
def test_dvc_is_timed_on_a_copy_of_a_finished_pipeline(prepared, tmp_path):
    env = environment(own_code=False)

    def call(*command):
        return run(command, tmp_path, env)

    call("git", "init", "-q")
    call(*DVC, "init", "-q")
    (tmp_path / "source").write_text("text")
    (tmp_path / "dvc.yaml").write_text("stages: {copy: {cmd: cp source copied, deps: [source], outs: [copied]}}")
    call("git", "add", "-A")
    (tmp_path / ".dvc/cache").mkdir(exist_ok=True)
    project = replace(project_of(prepared), root=tmp_path)
    with pytest.raises(NotMeasured, match="the pipeline is not finished; run `dvc repro`"):
        measure("repro", project)
    call(*DVC, "repro", "-q")
    call("git", "add", "-A")
    before = call("git", "status", "--porcelain", "--ignored")
    measured = measure("repro", project)
    assert len(measured.own) == 1 and min(measured.own + measured.peer) > 0
    assert call("git", "status", "--porcelain", "--ignored") == before
