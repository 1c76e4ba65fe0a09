import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sigma.data.audit import Limit, audit_dataset, audit_episode, choose_episodes, count_findings, summarise
from sigma.data.source import open_dataset
from sigma.errors import SigmaError
from tests.datasets import CAMERAS, JOINTS, write_dataset

LIMITS = {
    "stale_statistics": Limit(0.01, None),
    "row_count": Limit(None, 0.0),
    "row_order": Limit(None, 0.0),
    "short_episode": Limit(0.0, None),
    "non_finite": Limit(None, 0.0),
    "timestamp_gap": Limit(0.05, 0.5),
    "missing_task": Limit(None, 0.0),
    "duplicate_episode": Limit(None, 0.0),
    "frozen_state": Limit(0.5, 1.2),
    "dead_joint": Limit(0.02, 0.5),
    "saturated_joint": Limit(0.3, None),
    "jump": Limit(0.4, 0.9),
    "video_length": Limit(None, 0.0),
    "image_size": Limit(None, 0.0),
    "blank_camera": Limit(0.0, 0.5),
    "frozen_camera": Limit(0.5, 2.0),
}
LENGTH = 30


def audit(folder, workers=1):
    return audit_dataset(open_dataset(folder), LIMITS, min_frames=16, workers=workers)


# What the recorder got wrong, by episode: a function of the step and the frame that LeRobot's writer is given.
def _nan(step, frame):
    if step == 7:
        frame["action"] = np.where(np.arange(6) == 2, np.nan, frame["action"]).astype(np.float32)


def _frozen_state(step, frame):
    frame["observation.state"] = 4.5 + np.float32(0.1) * frame["observation.state"] * (not 5 <= step <= 14)


def _dead_joint(step, frame):
    frame["observation.state"][4] = 12.5


def _jump(step, frame):
    frame["observation.state"] = (20 if step < 15 else -20) + 0.1 * frame["observation.state"]


def _saturated(step, frame):
    frame["observation.state"][0] = min(20.0 + 2.5 * step, 60.0)


def _dark(step, frame):
    if step < 6:
        frame[CAMERAS[0]] = np.zeros_like(frame[CAMERAS[0]])


def _one_colour(step, frame):
    frame[CAMERAS[1]] = np.full_like(frame[CAMERAS[1]], 128)


def _frozen_camera(step, frame):
    if 10 <= step <= 20:
        frame[CAMERAS[1]] = _frozen_camera.held
    _frozen_camera.held = frame[CAMERAS[1]]


def _blank_task(step, frame):
    if step >= 20:
        frame["task"] = " "


FAULTS = {
    1: (_nan, "non_finite", "fail", (7, 7)),
    2: (_frozen_state, "frozen_state", "warn", (5, 14)),
    3: (_dead_joint, "dead_joint", "fail", (0, LENGTH - 1)),
    4: (_jump, "jump", "warn", (14, 15)),
    5: (_saturated, "saturated_joint", "warn", (16, 29)),
    6: (_dark, "blank_camera", "warn", (0, 5)),
    7: (_one_colour, "blank_camera", "fail", (0, LENGTH - 1)),
    8: (_frozen_camera, "frozen_camera", "warn", (9, 20)),
    9: (_blank_task, "missing_task", "fail", (20, LENGTH - 1)),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    def alter(episode, step, frame):
        if episode == 11:  # a copy of episode 0
            return alter.first[step]
        if episode in FAULTS:
            FAULTS[episode][0](step, frame)
        if episode == 0:
            alter.first.append(dict(frame))
        return frame

    alter.first = []
    lengths = [LENGTH] * 10 + [9, LENGTH]
    folder = write_dataset(tmp_path_factory.mktemp("audit") / "faulty", lengths=lengths, alter=alter)
    # LeRobot's statistics of the episode with a NaN are NaN too; they have their own test.
    (folder / "meta" / "stats.json").unlink()
    return folder


@pytest.fixture(scope="module")
def findings(faulty):
    return audit(faulty)


@pytest.fixture
def copy(dataset_folder, tmp_path):
    return shutil.copytree(dataset_folder, tmp_path / "copy")


def edit_rows(folder, change):
    path = next((folder / "data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    change(table).to_parquet(path)


def test_a_clean_dataset_has_no_finding(dataset_folder):
    assert audit(dataset_folder) == []


@pytest.mark.parametrize("episode", FAULTS)
def test_each_fault_is_found_where_it_is_and_nothing_else(findings, episode):
    _, check, severity, frames = FAULTS[episode]
    found = [finding for finding in findings if finding.episode == episode]
    assert [(item.check, item.severity) for item in found] == [(check, severity)]
    assert (found[0].first_frame, found[0].last_frame) == frames
    assert found[0].value > found[0].threshold


def test_findings_name_joint_and_camera(findings):
    detail = {finding.episode: finding.detail for finding in findings}
    assert detail[3] == JOINTS[4]
    assert detail[5] == JOINTS[0]
    assert detail[6] == CAMERAS[0]
    assert detail[8] == CAMERAS[1]


def test_short_and_repeated_episodes_are_found(findings):
    assert [(item.check, item.value) for item in findings if item.episode == 10] == [("short_episode", 7.0)]
    assert [(item.check, item.detail) for item in findings if item.episode == 11] == [
        ("duplicate_episode", "same state and action as episode 0")
    ]
    assert not [finding for finding in findings if finding.episode == 0]


def test_workers_change_nothing(faulty, findings):
    assert audit(faulty, workers=2) == findings


def test_rows_missing_in_the_table_are_found(copy):
    edit_rows(copy, lambda table: table[~((table.episode_index == 3) & (table.frame_index == 35))])
    assert [(item.episode, item.check) for item in audit(copy)] == [(3, "row_count")]


def test_a_dropped_frame_breaks_order_and_time(copy):
    edit_rows(copy, lambda table: table[~((table.episode_index == 2) & (table.frame_index == 20))])
    found = {item.check: item for item in audit(copy)}
    assert set(found) == {"row_count", "row_order", "timestamp_gap"}
    assert found["row_order"].first_frame == found["timestamp_gap"].first_frame == 20
    assert found["timestamp_gap"].value == pytest.approx(1, abs=1e-3)


def test_slow_clock_is_a_warning(copy):
    edit_rows(copy, lambda table: table.assign(timestamp=(table.timestamp * 1.1).astype("float32")))
    found = audit(copy)
    assert {(item.check, item.severity) for item in found} == {("timestamp_gap", "warn")}
    assert len(found) == 8


def test_statistics_of_other_data_are_found(copy):
    path = copy / "meta" / "stats.json"
    stored = json.loads(path.read_text())
    stored["action"]["mean"][2] += 5.0
    path.write_text(json.dumps(stored))
    found = audit(copy)
    assert [(item.episode, item.check, item.detail) for item in found] == [
        (-1, "stale_statistics", "action.mean of joint 2")
    ]


def test_a_cut_video_is_found_in_the_episodes_it_lacks(copy):
    import av

    path = next((copy / "videos" / CAMERAS[0]).rglob("*.mp4"))
    short = path.with_suffix(".short.mp4")
    with av.open(str(path)) as whole, av.open(str(short), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.pts is not None and packet.pts * packet.time_base < 28.0:
                packet.stream = stream
                cut.mux(packet)
    short.replace(path)
    found = [(item.episode, item.check, item.value) for item in audit(copy)]
    assert found == [(6, "video_length", 8.0), (7, "video_length", 38.0)]


def test_a_broken_video_is_a_finding_and_not_a_crash(copy):
    next((copy / "videos" / CAMERAS[1]).rglob("*.mp4")).write_bytes(b"no video" * 1000)
    found = audit(copy)
    assert {item.check for item in found} == {"video_length"}
    assert len(found) == 8 and "cannot be decoded" in found[0].detail


def test_images_of_another_size_are_found(copy):
    info = json.loads((copy / "meta" / "info.json").read_text())
    info["features"][CAMERAS[0]]["shape"] = [64, 64, 3]
    (copy / "meta" / "info.json").write_text(json.dumps(info))
    found = audit(copy)
    assert {(item.check, item.detail) for item in found} == {("image_size", CAMERAS[0])}
    assert sum(item.value for item in found) == 326


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.4, None), (0.5, None), (0.6, ("warn", 0.5)), (2.0, ("fail", 1.0)), (np.nan, ("fail", 1.0))],
)
def test_limits_decide_severity(value, verdict):
    assert Limit(0.5, 1.0).judge(value) == verdict


def test_a_limit_of_none_switches_a_level_off():
    assert Limit(None, 1.0).judge(0.9) is None
    assert Limit(0.5, None).judge(99.0) == ("warn", 0.5)
    assert Limit(None, None).judge(99.0) is None


def test_episodes_are_excluded_by_list_and_by_failure(faulty, findings):
    dataset = open_dataset(faulty)
    listed = choose_episodes(dataset, findings, [2, 5], drop_failed=False)
    assert listed["excluded"] == {"2": "listed in audit.exclude", "5": "listed in audit.exclude"}
    assert listed["used"] == [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]
    dropped = choose_episodes(dataset, findings, [2], drop_failed=True)
    assert dropped["excluded"] == {
        "1": "failed non_finite",
        "2": "listed in audit.exclude",
        "3": "failed dead_joint",
        "7": "failed blank_camera",
        "9": "failed missing_task",
        "11": "failed duplicate_episode",
    }
    assert not set(dropped["used"]) & {1, 2, 3, 7, 9, 11}


def test_counts_leave_excluded_episodes_out(faulty, findings):
    chosen = choose_episodes(open_dataset(faulty), findings, [1, 2, 3], drop_failed=False)
    counts = count_findings(findings, chosen)
    assert counts["excluded"] == 3
    assert counts["failures"] == 3
    assert counts["warnings"] == 5
    assert counts["checks"] == {
        "short_episode": 1,
        "missing_task": 1,
        "duplicate_episode": 1,
        "saturated_joint": 1,
        "jump": 1,
        "blank_camera": 2,
        "frozen_camera": 1,
    }


def test_excluding_unknown_or_all_episodes_is_refused(dataset):
    with pytest.raises(SigmaError, match=r"audit\.exclude: no episode 8; legal: 0 to 7"):
        choose_episodes(dataset, [], [8], drop_failed=False)
    with pytest.raises(SigmaError, match="every episode is excluded"):
        choose_episodes(dataset, [], range(8), drop_failed=False)


def test_a_dataset_without_rows_in_an_episode_is_audited(dataset_folder):
    dataset = open_dataset(dataset_folder)
    absent = replace(dataset.episodes[0], index=99)
    found = audit_episode(dataset, absent, summarise(dataset), LIMITS, 16)
    assert [item.check for item in found] == ["row_count"]
