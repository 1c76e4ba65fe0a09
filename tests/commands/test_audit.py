import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from sigma.commands import audit
from sigma.shared.errors import SigmaError
from sigma.tools import profile
from tests.commands.data_stages import parameters, write_base_record, write_dataset_record
from tests.datasets import CAMERAS, JOINTS, write_dataset


@pytest.fixture
def fetched(project, small_dataset):
    shutil.copytree(small_dataset, "data/dataset")
    write_base_record()
    write_dataset_record()
    return project


@pytest.fixture
def faulty(fetched):
    """Episode 2 lacks a row, so that four checks fail in it."""
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
        "cameras": 2,
        "excluded": 0,
        "used": 8,
        "failures": 0,
        "warnings": 0,
        "checks": {},
    }
    assert read("data/episodes.json") == {"used": list(range(8)), "excluded": {}}
    table = pd.read_parquet("data/audit.parquet")
    frames = ["first_frame", "last_frame"]
    columns = ["episode", "check", "severity", "value", "threshold", *frames, "subject", "detail"]
    assert list(table.columns) == columns and len(table) == 0


def test_a_failure_stops_the_pipeline_after_the_findings_are_written(faulty):
    with pytest.raises(SigmaError) as error:
        audit.run(parameters())
    line = str(error.value)
    assert line.startswith(
        "data/dataset: audit: 4 failures in the episodes in use; worst: row_count in episode 2: 1 > 0"
    )
    assert "\n" not in line and "audit.exclude" in line
    table = pd.read_parquet("data/audit.parquet")
    assert list(table["check"]) == ["row_count", "row_order", "index_gap", "timestamp_gap"]
    assert set(table["episode"]) == {2} and set(table["severity"]) == {"fail"}
    counted = {"row_count": 1, "row_order": 1, "index_gap": 1, "timestamp_gap": 1}
    assert read("metrics/audit.json")["checks"] == counted


@pytest.mark.parametrize(
    ("changes", "excluded", "failures"),
    [
        ({"audit__on_failure": "keep"}, {}, 4),
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
    assert metrics["used"] + metrics["excluded"] == metrics["episodes"]
    assert set(pd.read_parquet("data/audit.parquet")["episode"]) == {2}


def test_a_limit_decides_what_is_a_failure(faulty):
    lenient = {"warn": 0.5, "fail": 2.0}
    checks = ("row_count", "row_order", "index_gap", "timestamp_gap")
    changes = {f"audit__limits__{name}": lenient for name in checks}
    changes["audit__limits__row_order"] = {"warn": None, "fail": None}
    audit.run(parameters(**changes))
    assert list(pd.read_parquet("data/audit.parquet")["severity"]) == ["warn", "warn", "warn"]


def test_a_failure_that_no_exclusion_cures_stops_the_pipeline(fetched):
    path = Path("data/dataset/meta/info.json")
    path.write_text(json.dumps(read(path) | {"total_frames": 400}))
    with pytest.raises(
        SigmaError, match=r"worst: frame_total in dataset: 74 > 0 .* set params\.yaml: audit\.on_failure to keep$"
    ):
        audit.run(parameters(audit__on_failure="exclude"))
    assert read("data/episodes.json") == {"used": list(range(8)), "excluded": {}}
    assert ", 1 failures, 0 warnings, 0 episodes excluded" in audit.run(parameters(audit__on_failure="keep"))


def test_cameras_that_were_not_looked_at_are_said_to_be(fetched):
    for path in Path("data/dataset/videos").rglob("*.mp4"):
        path.write_bytes(b"no video")
    line = audit.run(parameters(audit__cameras=False))
    assert line.endswith("0 episodes excluded; cameras not looked at (audit.cameras)")
    assert read("metrics/audit.json")["cameras"] == 0


def in_units(scale, offset=0.0, **joints):
    """A dataset whose joints are scaled; those of ``joints``, by the name of the motor, have other values."""

    def alter(episode, step, frame):
        for name in ("observation.state", "action"):
            values = (frame[name] * scale + offset).astype(np.float32)
            for joint, value in joints.items():
                values[JOINTS.index(f"{joint}.pos")] = value(episode, step, name)
            frame[name] = values
        return frame

    write_base_record()
    write_dataset_record()
    return write_dataset(Path("data/dataset"), lengths=(30,) * 6, alter=alter, cameras=CAMERAS)


@pytest.mark.parametrize(
    ("units", "scale", "joints", "line"),
    [
        ("degrees", 1.0, {"wrist_roll": lambda episode, *_: 160.0 * (episode == 1)}, "1 of 6 episodes leave -100 to"),
        ("radians", 0.03, {}, "all joints stay within -1.199"),
        ("radians", 0.03, {"gripper": lambda _, step, __: 3.0 * step}, "all joints stay within -1.199.* to 87"),
        ("encoder ticks", 20.0, {}, "6 of 6 episodes leave"),
    ],
    ids=["degrees", "radians", "radians-and-percent", "ticks"],
)
def test_other_units_are_one_finding_of_the_dataset_whose_advice_cures_it(project, units, scale, joints, line):
    in_units(scale, **joints)
    limits = {name: {"warn": None, "fail": None} for name in ("jump", "action_jump", "dead_joint", "diverging_action")}
    for on_failure in ("exclude", "stop"):
        with pytest.raises(SigmaError, match=rf"worst: \w+ in dataset: .*{line}.*looks like {units}") as error:
            audit.run(parameters(audit__on_failure=on_failure, audit__limits=limits))
        assert read("data/episodes.json")["used"] == list(range(6))
    advice = re.search(r"audit\.joint_range: (\{.*?\})", str(error.value)).group(1)
    audit.run(parameters(audit__joint_range=YAML(typ="safe").load(advice), audit__limits=limits))
    assert not set(read("metrics/audit.json")["checks"]) & {"outside_range", "small_values", "other_units"}


def test_a_joint_that_stands_still_is_named_once_and_no_fault_of_an_episode(project):
    noise = lambda episode, step, name: 12.0 + 0.09 * ((3 * step + episode + len(name)) % 4 == 0)  # noqa: E731
    in_units(1.0, wrist_roll=noise)
    for on_failure in ("exclude", "stop"):
        with pytest.raises(SigmaError, match=r"worst: still_joint in dataset: .*wrist_roll\.pos.*exclude_joints"):
            audit.run(parameters(audit__on_failure=on_failure))
        assert set(read("metrics/audit.json")["checks"]) == {"still_joint"}
    assert "0 failures" in audit.run(parameters(window__exclude_joints=["wrist_roll.pos"]))


def test_a_gripper_that_holds_a_tool_throughout_is_left_out_by_its_name(project):
    in_units(1.0, gripper=lambda _, step, name: (2.0 if name == "action" else 30.0) + 0.09 * (step % 2))
    with pytest.raises(SigmaError, match=r"worst: still_joint in dataset: .*gripper\.pos"):
        audit.run(parameters())
    assert "0 failures" in audit.run(parameters(window__exclude_joints=["gripper.pos"]))


def test_a_gripper_that_is_open_or_shut_does_not_jump(project):
    in_units(1.0, gripper=lambda _, step, __: 100.0 * (step // 10 % 2))
    assert "0 failures" in audit.run(parameters())


@pytest.mark.parametrize(
    "opening",
    [lambda step: float(step // 10 % 2), lambda step: 0.02 + 0.02 * math.sin(step / 6)],
    ids=["0 1", "metres"],
)
def test_a_gripper_in_other_units_than_the_joints_does_not_stand_still(project, opening):
    in_units(1.0, gripper=lambda _, step, __: opening(step))
    assert "0 failures" in audit.run(parameters())


def test_a_camera_that_no_base_camera_takes_its_place_for_is_not_looked_at(fetched):
    for path in (Path("data/dataset/videos") / CAMERAS[1]).rglob("*.mp4"):
        path.write_bytes(b"no video")
    assert "0 failures" in audit.run(parameters(window__cameras={CAMERAS[1]: None}))
    assert read("metrics/audit.json")["cameras"] == 1
    with pytest.raises(SigmaError, match="worst: undecodable_video in episode"):
        audit.run(parameters())


def test_the_worst_findings_are_kept_as_pictures(faulty):
    video = next(Path("data/dataset/videos/observation.images.up").rglob("*.mp4"))
    content = bytearray(video.read_bytes())
    video.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    audit.run(parameters(audit__on_failure="keep", audit__shown=6))
    table = pd.read_parquet("data/audit.parquet")
    traces, frames = pd.read_parquet("data/audit_traces.parquet"), pd.read_parquet("data/audit_frames.parquet")
    assert set(table.loc[traces.finding, "check"]) >= {"row_count", "row_order", "index_gap", "timestamp_gap"}
    assert [len(state) for state in traces.state] == [51] * len(traces) and set(traces.fps) == {10}
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in frames.jpeg)
    audit.run(parameters(audit__on_failure="keep", audit__shown=0))
    assert len(pd.read_parquet("data/audit_traces.parquet")) == len(pd.read_parquet("data/audit_frames.parquet")) == 0


def test_the_profile_of_the_real_arm_leaves_out_telemetry_that_stood_still(project):
    """As in a public recording: the state repeats for 2.2 s of an episode at 30 Hz while the arm is led on."""

    def alter(episode, step, frame):
        if episode == 2 and 27 <= step <= 93:
            frame["observation.state"] = alter.held
        alter.held = frame["observation.state"]
        return frame

    write_dataset(Path("data/dataset"), lengths=(120,) * 4, fps=30, alter=alter)
    write_base_record()
    write_dataset_record()
    for name, excluded in (("pi05_so101", {"2": "failed frozen_state"}), ("source", {})):
        changes = {f"audit__{key}": value for key, value in profile.load(name)["audit"].items()} | {"window__test": 1}
        audit.run(parameters(**changes))
        assert read("data/episodes.json")["excluded"] == excluded
    assert "frozen_state" in set(pd.read_parquet("data/audit.parquet").query("episode == 2").check)


@pytest.mark.processes
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


def test_an_unknown_check_is_refused_before_any_work(project):
    with pytest.raises(SigmaError, match=r"^params\.yaml: audit\.limits\.jumps: no such check; legal: .*, jump, "):
        audit.run(parameters(audit__limits={"jumps": {"warn": 0.1}}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audit__limits__jump": {"warn": -1.0, "fail": 0.4}}, r"audit\.limits\.jump\.warn: .*legal: number ≥ 0"),
        ({"audit__limits__jump": {"warm": 1.0}}, r"audit\.limits\.jump\.warm: unknown key"),
        ({"audit__exclude": ["two"]}, r"audit\.exclude\.0: .*integer"),
        ({"audit__joint_range": {"lower": 1.0, "upper": 1.0}}, r"audit\.joint_range\.upper: must be above lower"),
    ],
)
def test_parameters_out_of_range_are_named(changes, words):
    with pytest.raises(SigmaError, match=words):
        parameters(**changes)
