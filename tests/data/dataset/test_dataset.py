import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sigma.data.dataset.dataset import open_dataset
from sigma.data.dataset.fit import choose_cameras
from sigma.data.dataset.layout import read_joint_names
from sigma.data.dataset.origin import describe_dataset
from sigma.data.dataset.video import decode
from sigma.shared.errors import SigmaError
from tests.datasets import CAMERAS, JOINTS, TASKS, joint_positions, write_dataset


@pytest.fixture
def copy(dataset_folder, tmp_path):
    return shutil.copytree(dataset_folder, tmp_path / "copy")


def edit_info(folder, **changes):
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_metadata_is_what_was_written(dataset):
    assert dataset.fps == 10
    assert dataset.joint_names == JOINTS
    assert tuple(dataset.cameras) == CAMERAS
    assert dataset.tasks == TASKS
    assert [episode.length for episode in dataset.episodes] == [40, 33, 52, 36, 48, 35, 44, 38]
    assert dataset.frames == 326


def test_rows_are_what_was_written(dataset):
    rows = dataset.read(dataset.episodes[3])
    expected = np.stack([joint_positions(3, step) for step in range(37)])
    np.testing.assert_array_equal(rows.state, expected[:-1])
    np.testing.assert_array_equal(rows.action, expected[1:])
    np.testing.assert_array_equal(rows.frame_index, np.arange(36))
    np.testing.assert_allclose(rows.timestamp, np.arange(36) / 10, atol=1e-6)
    assert set(rows.task) == {1}


@pytest.mark.parametrize("order", [range(8), (7, 2, 2, 0), ()])
def test_rows_of_many_episodes_are_those_of_each(dataset, order):
    chosen = [dataset.episodes[index] for index in order]
    found = list(dataset.read_each(iter(chosen)))
    assert len(found) == len(chosen)
    for episode, rows in zip(chosen, found, strict=True):
        for name, values in vars(dataset.read(episode)).items():
            np.testing.assert_array_equal(getattr(rows, name), values, strict=True)


@pytest.mark.parametrize("version", ["v2.1", "v2.0", "v4.0", None])
def test_other_format_versions_are_refused_by_name(copy, version):
    edit_info(copy, codebase_version=version)
    with pytest.raises(SigmaError, match=r"codebase_version .* is not read, only 'v3\.0'") as error:
        open_dataset(copy)
    assert repr(version) in str(error.value)
    assert ("convert_dataset_v21_to_v30" in str(error.value)) == (version == "v2.1")


@pytest.mark.parametrize("key", ["data_path", "video_path"])
@pytest.mark.parametrize("template", ["../{file_index}", "/etc/passwd", "data/../../x", "a\\..\\b", "{nothing}", None])
def test_paths_that_leave_the_folder_are_refused(copy, key, template):
    edit_info(copy, **{key: template})
    with pytest.raises(SigmaError, match=key):
        open_dataset(copy)


def test_folder_without_metadata_is_refused(tmp_path):
    with pytest.raises(SigmaError, match=r"not a LeRobotDataset folder \(no meta/info.json\)"):
        open_dataset(tmp_path)


def vectors(names_of_state, names_of_action=None, size=4):
    """The features of a state and an action with these names, as meta/info.json gives them."""
    one = {"dtype": "float32", "shape": [size]}
    return {"observation.state": one | {"names": names_of_state}, "action": one | {"names": names_of_action}}


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b", "c", "d"],
        [["a", "b"], ["c", "d"]],
        {"motors": ["a", "b", "c", "d"]},
        {"left": ["a", "b"], "right": ["c", "d"]},
        {"d": 3, "a": 0, "b": 1, "c": 2},
        {"d": 3.0, "a": 0.0, "b": 1.0, "c": 2.0},
    ],
)
def test_joint_names_are_read_in_every_form_that_lerobot_writes(names):
    assert read_joint_names(vectors(names, names), Path("info.json")) == ("a", "b", "c", "d")
    assert read_joint_names(vectors(names), Path("info.json")) == ("a", "b", "c", "d")


def test_joints_of_two_arms_with_equal_names_are_named_by_arm():
    arms = {"left": ["arm", "gripper"], "right": ["arm", "gripper"]}
    names = read_joint_names(vectors(arms, arms), Path("info.json"))
    assert names == ("left.arm", "left.gripper", "right.arm", "right.gripper")
    lists = [["arm", "gripper"], ["arm", "gripper"]]
    names = read_joint_names(vectors(lists, lists), Path("info.json"))
    assert names == ("0.arm", "0.gripper", "1.arm", "1.gripper")


@pytest.mark.parametrize("names", [None, ["a", "b", "c"], ["a", "a", "b", "c"], "motors", 6])
def test_joints_that_nothing_names_are_numbered(names):
    assert read_joint_names(vectors(names), Path("info.json")) == ("joint_0", "joint_1", "joint_2", "joint_3")


@pytest.mark.parametrize("ending", ["", ".pos"])
def test_a_state_that_lists_its_joints_in_another_order_is_refused(ending):
    pan, lift, grip = "shoulder_pan", "shoulder_lift", "gripper"
    features = vectors([f"{name}{ending}" for name in (pan, grip, lift)], [pan, lift, grip], size=3)
    with pytest.raises(
        SigmaError, match=r"^info\.json: value 1 is 'gripper.*' in observation\.state and 'shoulder_lift'"
    ):
        read_joint_names(features, Path("info.json"))
    features = vectors([f"main_{name}{ending}" for name in (pan, lift, grip)], [pan, lift, grip], size=3)
    assert read_joint_names(features, Path("info.json")) == (pan, lift, grip)
    features = vectors(["a", "c", "b", "d"], ["a", "b", "c", "d"])
    with pytest.raises(SigmaError, match=r"^info\.json: value 1 is 'c' in observation\.state and 'b' in action; "):
        read_joint_names(features, Path("info.json"))


def test_state_and_action_of_different_size_are_refused(copy):
    info = json.loads((copy / "meta" / "info.json").read_text())
    info["features"]["action"] |= {"shape": [5], "names": None}
    edit_info(copy, features=info["features"])
    with pytest.raises(SigmaError, match="6 values and action 5"):
        open_dataset(copy)


def test_episode_listed_twice_is_refused(copy):
    path = next((copy / "meta" / "episodes").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table.loc[5, "episode_index"] = 4
    table.to_parquet(path)
    with pytest.raises(SigmaError, match="episode 4 is listed twice"):
        open_dataset(copy)


def test_rows_are_found_by_their_index_whatever_table_the_metadata_names(copy, dataset):
    path = next((copy / "data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    table[table.episode_index < 5].to_parquet(path)
    table[table.episode_index >= 5].to_parquet(path.with_name("file-007.parquet"))
    moved = open_dataset(copy)
    assert [episode.misplaced for episode in moved.episodes] == [False] * 5 + [True] * 3
    for episode, before in zip(moved.episodes, dataset.episodes, strict=True):
        np.testing.assert_array_equal(moved.read(episode).state, dataset.read(before).state)
    assert "data/chunk-000/file-007.parquet" in moved.files()


def test_white_space_in_a_task_is_normalised(copy):
    path = copy / "meta" / "tasks.parquet"
    tasks = pd.read_parquet(path)
    tasks.index = pd.Index(["push\tthe cube\r\n", "  lift  the\ncube"], name="task")
    tasks.to_parquet(path)
    assert open_dataset(copy).tasks == TASKS
    tasks.index = pd.Index(["push the cube", "push  the cube "], name="task")  # one task to everybody who reads it
    tasks.to_parquet(path)
    dataset = open_dataset(copy)
    assert {int(task) for episode in dataset.episodes for task in dataset.read(episode).task} == {0}
    assert describe_dataset(copy, "copy", None)["tasks"] == ["push the cube"]


def unasked(camera, change):
    """A camera's feature, or what the episodes' table says of it, is changed."""

    def apply(folder):
        info = json.loads((folder / "meta" / "info.json").read_text())
        path = next((folder / "meta" / "episodes").rglob("*.parquet"))
        table = pd.read_parquet(path)
        change(info["features"][camera], table, folder)
        edit_info(folder, features=info["features"])
        table.to_parquet(path)

    return apply


def grey(feature, table, folder):
    feature["shape"] = [48, 64, 1]


def old_depth(feature, table, folder):
    feature["video_info"] = {"video.is_depth_map": True}


def no_film(feature, table, folder):
    shutil.rmtree(folder / "videos" / CAMERAS[1])


def no_time(feature, table, folder):
    table[f"videos/{CAMERAS[1]}/from_timestamp"] = np.nan


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (grey, r"info\.json: features\.observation\.images\.wrist: expected height, width and 3 channels, found \[48"),
        (old_depth, "a depth map"),
        (no_film, "file-000.mp4: not found, but the metadata names it"),
        (no_time, r"episodes: unusable entry \(episode 0: .*/from_timestamp: found None; legal: seconds from 0"),
    ],
    ids=["grey", "depth", "films", "times"],
)
def test_a_camera_that_cannot_be_used_refuses_a_dataset_only_where_it_is_asked_for(copy, change, reason):
    unasked(CAMERAS[1], change)(copy)
    dataset = open_dataset(copy)
    assert tuple(dataset.cameras) == CAMERAS[:1]
    assert not [name for name in dataset.files() if CAMERAS[1] in name], "nor is it copied"
    base = {"cameras": list(CAMERAS)}
    assert choose_cameras(base, dataset, {CAMERAS[1]: None}) == {CAMERAS[0]: CAMERAS[0]}
    with pytest.raises(SigmaError, match=rf"^params.yaml: window.cameras.{CAMERAS[1]}: .* cannot be used \(.*{reason}"):
        choose_cameras(base, dataset, {})


@pytest.mark.parametrize("absent", [None, float("nan")])
def test_an_episode_that_a_camera_did_not_film_has_no_place_in_its_films(copy, absent):
    path = next((copy / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(path)
    for name in table.column_names:
        if name.startswith(f"videos/{CAMERAS[1]}/"):
            values = [absent, absent, *map(float, table[name].to_pylist()[2:])]
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float64()))
    pq.write_table(table, path)
    dataset = open_dataset(copy)
    assert [CAMERAS[1] in episode.videos for episode in dataset.episodes] == [False] * 2 + [True] * 6
    assert not list(decode(dataset, dataset.episodes[0], CAMERAS[1]))


def test_episode_count_must_agree_with_the_table(copy):
    edit_info(copy, total_episodes=7)
    with pytest.raises(SigmaError, match="total_episodes is 7, but meta/episodes lists 8"):
        open_dataset(copy)


def test_files_are_exactly_those_of_the_dataset(copy, dataset_folder):
    (copy / "videos" / "notes.txt").write_text("mine")
    (copy / ".git").mkdir()
    (copy / ".git" / "config").write_text("")
    written = sorted(
        item.relative_to(dataset_folder).as_posix() for item in dataset_folder.rglob("*") if item.is_file()
    )
    assert open_dataset(copy).files() == written


def test_a_single_joint_is_read(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "one", lengths=(5,), joints=("slide.pos",)))
    rows = dataset.read(dataset.episodes[0])
    assert rows.state.shape == rows.action.shape == (5, 1)
