import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from sigma.commands import audit
from sigma.data.audit import check_names
from sigma.errors import SigmaError
from tests.commands.data_stages import parameters


@pytest.fixture
def fetched(project, small_dataset):
    shutil.copytree(small_dataset, "data/dataset")
    return project


@pytest.fixture
def faulty(fetched):
    """Episode 2 lacks a row, so that three checks fail or warn in it."""
    path = next(Path("data/dataset/data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table[~((table.episode_index == 2) & (table.frame_index == 20))].to_parquet(path)
    return fetched


def read(name):
    return json.loads(Path(name).read_text())


def test_a_clean_dataset_passes(fetched):
    assert audit.run(parameters()) == "audit: 8 episodes, 0 failures, 0 warnings, 0 episodes excluded"
    assert read("metrics/audit.json") == {
        "episodes": 8,
        "frames": 326,
        "excluded": 0,
        "failures": 0,
        "warnings": 0,
        "checks": {},
    }
    assert read("data/episodes.json") == {"used": list(range(8)), "excluded": {}}
    table = pd.read_parquet("data/audit.parquet")
    columns = ["episode", "check", "severity", "value", "threshold", "first_frame", "last_frame", "detail"]
    assert list(table.columns) == columns and len(table) == 0


def test_a_failure_stops_the_pipeline_after_the_findings_are_written(faulty):
    with pytest.raises(SigmaError) as error:
        audit.run(parameters())
    line = str(error.value)
    assert line.startswith(
        "data/dataset: audit: 3 failures in the episodes in use; first: row_count in episode 2: 1 > 0"
    )
    assert "\n" not in line and "audit.exclude" in line
    table = pd.read_parquet("data/audit.parquet")
    assert list(table["check"]) == ["row_count", "row_order", "timestamp_gap"]
    assert set(table["episode"]) == {2} and set(table["severity"]) == {"fail"}
    assert read("metrics/audit.json")["checks"] == {"row_count": 1, "row_order": 1, "timestamp_gap": 1}


@pytest.mark.parametrize(
    ("changes", "excluded", "failures"),
    [
        ({"audit__on_failure": "keep"}, {}, 3),
        ({"audit__on_failure": "exclude"}, {"2": "failed row_count"}, 0),
        ({"audit__exclude": [2]}, {"2": "listed in audit.exclude"}, 0),
    ],
)
def test_failures_can_be_kept_or_left_out(faulty, changes, excluded, failures):
    audit.run(parameters(**changes))
    assert read("data/episodes.json")["excluded"] == excluded
    assert (2 in read("data/episodes.json")["used"]) == (not excluded)
    metrics = read("metrics/audit.json")
    assert (metrics["failures"], metrics["excluded"]) == (failures, len(excluded))
    assert set(pd.read_parquet("data/audit.parquet")["episode"]) == {2}


def test_a_limit_decides_what_is_a_failure(faulty):
    lenient = {"warn": 0.5, "fail": 2.0}
    changes = {f"audit__limits__{name}": lenient for name in ("row_count", "row_order", "timestamp_gap")}
    changes["audit__limits__row_order"] = {"warn": None, "fail": None}
    audit.run(parameters(**changes))
    assert list(pd.read_parquet("data/audit.parquet")["severity"]) == ["warn", "warn"]


def test_outputs_do_not_depend_on_workers(faulty):
    contents = []
    for workers in (1, 2):
        audit.run(parameters(audit__on_failure="keep", machine__workers=workers))
        files = ("metrics/audit.json", "data/audit.parquet", "data/episodes.json")
        contents.append([Path(name).read_bytes() for name in files])
    assert contents[0] == contents[1]


def test_an_unknown_episode_in_the_list_is_refused(fetched):
    with pytest.raises(SigmaError, match=r"params\.yaml: audit\.exclude: no episode 8; legal: 0 to 7"):
        audit.run(parameters(audit__exclude=[8]))
    assert not Path("metrics").exists()


def test_a_missing_dataset_is_one_line(project):
    with pytest.raises(SigmaError, match=r"^data/dataset: not a LeRobotDataset folder"):
        audit.run(parameters())


def test_every_check_has_its_limit_in_the_parameters():
    assert list(audit.CheckLimits.model_fields) == check_names()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audit__limits__jump": {"warn": 0.5, "fail": 0.4}}, r"audit\.limits\.jump\.fail: must not be below warn"),
        ({"audit__limits__jump": {"warn": -1.0, "fail": 0.4}}, r"audit\.limits\.jump\.warn: .*legal: number ≥ 0"),
        ({"audit__limits__jumps": {"warn": 0.1, "fail": 0.4}}, r"audit\.limits\.jumps: unknown key"),
        ({"audit__on_failure": "ignore"}, r"audit\.on_failure: .*legal: one of stop, exclude, keep"),
        ({"audit__exclude": ["two"]}, r"audit\.exclude\.0: .*integer"),
    ],
)
def test_parameters_out_of_range_are_named(changes, words):
    with pytest.raises(SigmaError, match=words):
        parameters(**changes)
