"""Every figure that needs no DVC comes out on a tiny project, with its parts, and is a ratio of what was measured."""

from importlib import import_module

import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json
from sigma.studies.benchmark.catalogue import CATALOGUE
from sigma.studies.benchmark.kept_record import NotMeasured, build
from sigma.studies.benchmark.memory import prepare
from sigma.studies.benchmark.run import record_of
from tests.studies.benchmark.projects import project_of
from tests.worlds import ADAPTED

PARTS_OF = {
    "training_step_flow": {"data", "forward", "backward", "optimizer"},
    "training_step_flow_one_draw": {"data", "forward", "backward", "optimizer"},
    "training_step_residual": {"data", "forward", "backward", "optimizer"},
    "training_step_frozen_branch": {"data", "forward", "backward", "optimizer"},
    "decision": {"vision", "frozen prefix", "frozen action", "adapted prefix", "adapted action", "heads", "adapter"},
    "evaluation_base": {"vision", "prefix", "actions"},
    "windowing": {"decode limit", "resize", "write and digest", "read tables"},
}
TRAINED = ("decision", "evaluation")
SLOW = {"windowing_memory", "help", "repro", "adapter_experiment"}  # processes of their own
COMPILED = "training_step_compiled"  # most of a minute of compilation
QUICK = [
    pytest.param(name, marks=pytest.mark.slow) if name == COMPILED else name for name in CATALOGUE if name not in SLOW
]


def measure(name, project):
    return import_module(f"sigma.studies.benchmark.time_{CATALOGUE[name].part}").FIGURES[name](project)


@pytest.mark.parametrize("name", QUICK)
def test_a_figure_comes_out(name, prepared, request):
    world = request.getfixturevalue("trained_adapted") if CATALOGUE[name].part in TRAINED else prepared
    record = record_of(name, project_of(world, ADAPTED))
    ratio = record["ratio"]
    assert ratio["median"] == pytest.approx(record["own"]["median"] / record["peer_value"]["median"], rel=1e-4)
    assert ratio["median"] > 0 and record["repetitions"] == 1 and record["other_programs"] >= 0
    assert PARTS_OF.get(name, set()) <= set(record["own"].get("split", {}))
    if "split" in record["own"] and CATALOGUE[name].unit == "s":
        assert min(record["own"]["split"].values()) >= 0


def test_peak_memory_is_measured_at_every_size(prepared):
    project = project_of(prepared)
    record = build(CATALOGUE["windowing_memory"], measure("windowing_memory", project))
    told = record["own"]["by_copies"]
    assert set(told) == {"1", "2"} and record["own"]["copies"] == 2
    assert (told["1"]["episodes"], told["2"]["episodes"]) == (6, 12)
    # Not to the frame: episodes differ in length, and which of them are held out is drawn anew.
    assert told["2"]["frames"] == pytest.approx(2 * told["1"]["frames"], rel=0.15), "every part grows alike"
    assert told["1"]["mib"]["median"] >= told["1"]["mib_of_the_first_process"]["median"] > 20
    assert record["own"]["median"] == told["2"]["mib"]["median"]


def test_shares_of_the_held_out_parts_stay_when_the_dataset_grows(prepared, tmp_path):
    from sigma.parameters.schema import read_yaml

    project = project_of(prepared)
    folder = prepare(project, tmp_path / "two", 2)
    window = read_yaml(folder / "params.yaml")["window"]
    assert window["validation"] == window["test"] == 0.25 and window["shard_mib"] == 1
    assert read_json(folder / "data/episodes.json")["used"] == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]


def test_too_little_space_is_told_before_any_work(prepared, monkeypatch):
    from collections import namedtuple

    from sigma.studies.benchmark import memory

    usage = namedtuple("Usage", "free")
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: usage(1))
    with pytest.raises(SigmaError, match=r"windowing_memory: .* GiB are needed in .*; set TMPDIR, or lower"):
        measure("windowing_memory", project_of(prepared))


def test_what_means_nothing_here_is_left_out_with_its_reason(prepared):
    frozen = project_of(prepared)
    with pytest.raises(NotMeasured, match=r"base\.branch is frozen"):
        measure("training_step_flow", frozen)
    with pytest.raises(NotMeasured, match="see training_step_residual"):
        measure("training_step_frozen_branch", frozen)
    record = record_of("repro", project_of(prepared, startup={"pipeline": False}))
    assert record["not_measured"] == "benchmark.startup.pipeline is false" and "ratio" not in record


def test_help_is_held_against_the_import_of_its_library(prepared):
    record = build(CATALOGUE["help"], measure("help", project_of(prepared)))
    assert 0 < record["own"]["split"]["python alone"] < record["own"]["median"]
