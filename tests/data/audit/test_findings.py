import shutil

import numpy as np
import pandas as pd
import pytest

from sigma.compute.workers import Workers
from sigma.data.audit.check import Limit
from sigma.data.audit.findings import audit_dataset, check_listed, choose_episodes, count_findings, worst_first
from sigma.data.audit.limits import CHECKS, choose_limits
from sigma.data.audit.measures import Settings
from sigma.data.dataset.dataset import open_dataset
from sigma.shared.errors import SigmaError
from tests.datasets import CAMERAS, write_dataset

LIMITS, SETTINGS = choose_limits({}), Settings(16, -100, 100)
LENGTH = 30


def audit(folder):
    return audit_dataset(open_dataset(folder), LIMITS, SETTINGS, Workers(1))


# What the recorder got wrong, by episode: a function of the step and the frame that LeRobot's writer is given.
def _nan(step, frame):
    if step == 7:
        frame["action"] = np.where(np.arange(6) == 2, np.nan, frame["action"]).astype(np.float32)


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
    1: (_nan, "non_finite", "fail", "", (7, 7)),
    2: (_dark, "blank_camera", "warn", CAMERAS[0], (0, 5)),
    3: (_one_colour, "blank_camera", "fail", CAMERAS[1], (0, LENGTH - 1)),
    4: (_frozen_camera, "frozen_camera", "warn", CAMERAS[1], (9, 20)),
    5: (_blank_task, "missing_task", "fail", "", (20, LENGTH - 1)),
}
SHORT, COPY = 6, 7


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    def alter(episode, step, frame):
        if episode == COPY:
            return alter.first[step]
        if episode in FAULTS:
            FAULTS[episode][0](step, frame)
        if episode == 0:
            alter.first.append(dict(frame))
        return frame

    alter.first = []
    lengths = [LENGTH] * 6 + [9, LENGTH]
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
    _, *expected, frames = FAULTS[episode]
    found = [finding for finding in findings if finding.episode == episode]
    assert [[item.check, item.severity, item.subject] for item in found] == [expected]
    assert (found[0].first_frame, found[0].last_frame) == frames
    assert found[0].value > found[0].threshold


def test_short_and_repeated_episodes_are_found(findings):
    assert [(item.check, item.value) for item in findings if item.episode == SHORT] == [("short_episode", 7.0)]
    copied = [(item.check, item.value, item.subject) for item in findings if item.episode == COPY]
    assert copied[0] == ("duplicate_episode", 1.0, "")
    assert [(check, subject) for check, _, subject in copied[1:]] == [("duplicate_video", camera) for camera in CAMERAS]
    assert not [finding for finding in findings if finding.episode == 0]


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
    assert found == [(6, "video_length", 8.0), (7, "missing_camera", 1.0)]


def test_a_broken_video_is_a_finding_and_not_a_crash(copy):
    next((copy / "videos" / CAMERAS[1]).rglob("*.mp4")).write_bytes(b"no video" * 1000)
    found = audit(copy)
    assert {(item.check, item.subject) for item in found} == {("undecodable_video", CAMERAS[1])}
    assert len(found) == 8 and "cannot be decoded" in found[0].detail
    assert str(copy) not in found[0].detail


def test_without_cameras_no_video_is_opened(copy):
    for path in (copy / "videos").rglob("*.mp4"):
        path.write_bytes(b"no video")
    assert audit_dataset(open_dataset(copy), LIMITS, SETTINGS, Workers(1), decode=False) == []


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


def test_an_override_replaces_a_level_and_leaves_the_other_to_the_check():
    limits = choose_limits({"jump": {"warn": 0.3}, "dead_joint": {"warn": None, "fail": None}, "row_count": {}})
    assert limits["jump"] == Limit(0.3, CHECKS["jump"].limit.fail)
    assert limits["dead_joint"] == Limit(None, None)
    assert list(limits) == list(CHECKS)
    others = set(CHECKS) - {"jump", "dead_joint"}
    assert all(limits[name] == CHECKS[name].limit for name in others)


def test_an_override_of_no_check_or_with_crossed_levels_is_refused():
    with pytest.raises(SigmaError) as error:
        choose_limits({"jumps": {"warn": 0.1}})
    names = ", ".join(CHECKS)
    assert str(error.value) == f"params.yaml: audit.limits.jumps: no such check; legal: {names}"
    for override, words in (
        ({"warn": 0.95}, r"fail \(0\.9\) .*warn \(0\.95\)"),
        ({"warn": 0.5, "fail": 0.4}, r"fail \(0\.4\)"),
    ):
        with pytest.raises(SigmaError, match=rf"^params\.yaml: audit\.limits\.jump: {words}"):
            choose_limits({"jump": override})


def test_the_worst_finding_comes_first(findings):
    ranked = worst_first(findings)
    assert [item.severity for item in ranked] == sorted(item.severity for item in ranked)
    assert [item.check for item in ranked[:2]] == ["non_finite", "missing_task"]
    margins = [item.margin for item in ranked if item.severity == "fail"]
    assert margins == sorted(margins, reverse=True)


def test_episodes_are_excluded_by_list_and_by_failure(faulty, findings):
    dataset = open_dataset(faulty)
    listed = choose_episodes(dataset, findings, [2, 5], drop_failed=False)
    assert listed["excluded"] == {"2": "listed in audit.exclude", "5": "listed in audit.exclude"}
    assert listed["used"] == [0, 1, 3, 4, 6, 7]
    dropped = choose_episodes(dataset, findings, [2], drop_failed=True)
    assert dropped["excluded"] == {
        "1": "failed non_finite",
        "2": "listed in audit.exclude",
        "3": "failed blank_camera",
        "5": "failed missing_task",
        "7": "failed duplicate_episode",
    }
    assert dropped["used"] == [0, 4, 6]


def test_counts_leave_excluded_episodes_out(faulty, findings):
    chosen = choose_episodes(open_dataset(faulty), findings, [1, 2], drop_failed=False)
    counts = count_findings(findings, chosen)
    assert (counts["excluded"], counts["used"]) == (2, 6)
    assert (counts["failures"], counts["warnings"]) == (5, 2)
    assert counts["checks"] == {
        "short_episode": 1,
        "missing_task": 1,
        "duplicate_episode": 1,
        "blank_camera": 1,
        "frozen_camera": 1,
        "duplicate_video": 2,
    }


def test_excluding_an_unknown_episode_is_refused(dataset):
    with pytest.raises(SigmaError, match=r"audit\.exclude: no episode 8; legal: 0 to 7"):
        check_listed(dataset, [8])
    check_listed(dataset, range(8))
    assert choose_episodes(dataset, [], range(8), drop_failed=False)["used"] == []


def test_an_episode_without_rows_is_audited(copy):
    edit_rows(copy, lambda table: table[table.episode_index != 3])
    found = [(item.episode, item.check, item.value) for item in audit(copy) if item.check != "stale_statistics"]
    assert found == [(3, "row_count", 36.0)]


@pytest.mark.parametrize("column", ["observation.state", "action", "timestamp", "frame_index", "index", "task_index"])
def test_a_column_that_is_missing_or_holds_words_is_a_finding(copy, column):
    expected = {(episode, "wrong_type", "fail") for episode in range(8)}
    edit_rows(copy, lambda table: table.assign(**{column: "words"}))
    assert {(item.episode, item.check, item.severity) for item in audit(copy)} >= expected
    edit_rows(copy, lambda table: table.drop(columns=column))
    found = audit(copy)
    assert {(item.episode, item.check, item.severity) for item in found} >= expected
    assert any(item.detail == f"column {column!r} is missing" for item in found)


def test_missing_values_are_findings(copy):
    def empty(table):
        states = [None if row == 5 else state for row, state in enumerate(table["observation.state"])]
        return table.assign(**{"observation.state": states, "task_index": table.task_index.where(table.index != 50)})

    edit_rows(copy, empty)
    found = {(item.episode, item.check, item.first_frame) for item in audit(copy)}
    assert found >= {(0, "non_finite", 5), (1, "unknown_task", 10)}


# What cannot be laid at one episode's door, or leaves nothing to audit, is refused by the reader, with the file's name.
def _no_table(folder):
    next((folder / "data").rglob("*.parquet")).unlink()


def _no_tasks(folder):
    (folder / "meta" / "tasks.parquet").unlink()


def _broken_table(folder):
    next((folder / "data").rglob("*.parquet")).write_bytes(b"PAR1" + bytes(1000) + b"PAR1")


def _no_owner(folder):
    edit_rows(folder, lambda table: table.drop(columns="episode_index"))


def _edit_episodes(folder, change):
    path = next((folder / "meta" / "episodes").rglob("*.parquet"))
    change(pd.read_parquet(path)).to_parquet(path)


def _episode_gap(folder):
    _edit_episodes(folder, lambda table: table[table.episode_index != 4])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_table, r"\.parquet: not found, but the metadata names it"),
        (_no_tasks, r"tasks\.parquet: not found"),
        (_broken_table, r"\.parquet: not readable as a LeRobot table"),
        (_no_owner, r"\.parquet: column 'episode_index' is missing"),
        (_episode_gap, r"meta/episodes: episode 4 is missing \(it goes on with 5\)"),
    ],
)
def test_what_no_episode_can_be_blamed_for_is_refused_in_one_line(copy, damage, words):
    damage(copy)
    with pytest.raises(SigmaError, match=words) as error:
        audit(copy)
    assert "\n" not in str(error.value)
