import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sigma.commands import fetch
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder
from tests.commands.data_stages import parameters
from tests.datasets import JOINTS, TASKS, camera_image, joint_positions, write_dataset

REVISION = "f641879e22172be7e8161d5e6c1503c2d2feb657"


@pytest.fixture
def copy(small_dataset, tmp_path):
    return shutil.copytree(small_dataset, tmp_path / "recorded")


def refused(folder, words: str, **changes):
    with pytest.raises(SigmaError, match=words) as error:
        fetch.run(parameters(**changes))
    assert "\n" not in str(error.value)
    assert not [item for item in (folder / "data").rglob("*") if item.is_file()]


def test_a_folder_is_copied_whole_and_recorded(project, small_dataset, small_base):
    line = fetch.run(parameters(small_dataset, small_base))
    assert line.startswith("fetch: 8 episodes, 326 frames, 2 tasks from ")
    assert digest_folder(Path("data/dataset")) == digest_folder(small_dataset)
    record = json.loads(Path("data/dataset.json").read_text())
    assert record["digest"] == digest_folder(small_dataset)
    assert (record["episodes"], record["frames"], record["fps"]) == (8, 326, 10)
    assert (record["tasks"], record["joint_names"]) == (list(TASKS), list(JOINTS))
    assert record["robot_type"] == "so101_follower"
    base = json.loads(Path("data/base.json").read_text())
    assert base["chunk_size"] == 16 and base["cameras"] == ["observation.images.up", "observation.images.wrist"]


def test_lerobot_reads_the_copy(project, small_dataset, small_base):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    fetch.run(parameters(small_dataset, small_base))
    copy = LeRobotDataset("tests/small", root="data/dataset", video_backend="pyav")
    assert len(copy) == 326 and copy[45]["task"] == TASKS[1]


def test_an_installation_without_the_shipped_dataset_says_so(project, small_base, monkeypatch):
    monkeypatch.setattr("sigma.data.dataset.origin.importlib.resources.files", lambda _: project)
    refused(project, "embedded/dataset: the shipped dataset is not in this installation", base=small_base)


def test_only_files_of_the_dataset_are_copied(project, copy, small_base, small_dataset):
    (copy / ".cache").mkdir()
    (copy / ".cache" / "lock").write_text("x")
    (copy / "videos" / "notes.txt").write_text("x")
    fetch.run(parameters(copy, small_base))
    assert digest_folder(Path("data/dataset")) == digest_folder(small_dataset)


def test_the_copy_is_of_content_where_the_source_has_links(project, copy, small_base):
    table = next((copy / "data").rglob("*.parquet"))
    blob = copy / "blob"
    table.rename(blob)
    table.symlink_to(blob)
    fetch.run(parameters(copy, small_base))
    assert not [item for item in Path("data/dataset").rglob("*") if item.is_symlink()]


def test_a_second_fetch_replaces_the_first(project, copy, small_base):
    fetch.run(parameters(copy, small_base))
    Path("data/dataset/stray").write_text("x")
    fetch.run(parameters(copy, small_base))
    assert not Path("data/dataset/stray").exists()


def test_another_content_has_another_digest(project, copy, small_base):
    fetch.run(parameters(copy, small_base))
    first = json.loads(Path("data/dataset.json").read_text())["digest"]
    stats = copy / "meta" / "stats.json"
    stats.write_text(stats.read_text() + "\n")
    fetch.run(parameters(copy, small_base))
    assert json.loads(Path("data/dataset.json").read_text())["digest"] != first


def test_a_folder_that_is_no_dataset_is_refused(project, small_base):
    (project / "empty").mkdir()
    refused(project, r"empty: not a LeRobotDataset folder", dataset=project / "empty", base=small_base)


def write_other_names(folder):
    """A dataset as openpi's example converts one: LeRobot's writer, other names."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector, image = {"dtype": "float32", "shape": (6,)}, {"dtype": "image", "shape": (32, 32, 3)}
    features = {"state": vector | {"names": None}, "actions": vector | {"names": None}}
    names = {"image": 0, "wrist_image": 1}
    features |= dict.fromkeys(names, image | {"names": ["height", "width", "channel"]})
    features["intervention"] = {"dtype": "bool", "shape": (1,), "names": None}  # nobody took over
    dataset = LeRobotDataset.create("me/openpi", fps=10, features=features, root=folder, use_videos=False)
    for episode in range(6):
        for step in range(20):
            images = {name: camera_image(episode, step, camera, 32, 32) for name, camera in names.items()}
            vectors = {"state": joint_positions(episode, step), "actions": joint_positions(episode, step + 1)}
            vectors["intervention"] = np.array([False])
            dataset.add_frame(vectors | images | {"task": "push the cube"})
        dataset.save_episode()
    dataset.finalize()
    return folder


def test_other_names_of_state_and_action_are_mapped_and_the_copy_has_lerobots(project, small_base):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    source = write_other_names(project / "openpi")
    cameras = {"observation.images.up": "image", "observation.images.wrist": "wrist_image"}
    asked = {"dataset": source, "base": small_base, "window__cameras": cameras}
    refused(project, r"features\.observation\.state: .* fetch\.dataset\.keys: .* vectors are state, actions", **asked)
    wrong = {"fetch__dataset__keys": {"observation.state": "joints"}}
    refused(project, r"keys\.observation\.state: the dataset has no 'joints'; it has state, ", **asked, **wrong)
    keys = {"observation.state": "state", "action": "actions"}
    fetch.run(parameters(source, small_base, window__cameras=cameras, fetch__dataset__keys=keys))
    copy = LeRobotDataset("me/openpi", root="data/dataset")
    np.testing.assert_array_equal(copy[45]["observation.state"], joint_positions(2, 5))
    np.testing.assert_array_equal(copy[45]["action"], joint_positions(2, 6))
    assert copy[45]["wrist_image"].shape == (3, 32, 32) and set(copy.meta.stats) >= {"observation.state", "action"}


def write_old_format(folder, new):
    """The dataset ``new``, whose images lie in its table, in LeRobot's format v2.1."""
    rows = pd.read_parquet(next((new / "data").rglob("*.parquet")))
    records = pd.read_parquet(next((new / "meta" / "episodes").rglob("*.parquet"))).to_dict("records")
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    lines = {"episodes": [], "episodes_stats": [], "tasks": []}
    for number, record in enumerate(records):
        own = rows[rows.episode_index == number]
        own.to_parquet(folder / f"data/chunk-000/episode_{number:06d}.parquet")
        lines["episodes"].append({"episode_index": number, "tasks": list(record["tasks"]), "length": len(own)})
        stats: dict = {}
        for name, value in record.items():
            if name.startswith("stats/"):
                _, feature, figure = name.split("/")
                stats.setdefault(feature, {})[figure] = json.loads(pd.Series([value]).to_json())["0"]
        lines["episodes_stats"].append({"episode_index": number, "stats": stats})
    lines["tasks"] = [{"task_index": index, "task": task} for index, task in enumerate(TASKS)]
    for name, entries in lines.items():
        (folder / "meta" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, entries)))
    info = json.loads((new / "meta" / "info.json").read_text())
    info |= {"codebase_version": "v2.1", "total_chunks": 1, "total_videos": 0, "chunks_size": 1000, "video_path": None}
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    dropped = ("data_files_size_in_mb", "video_files_size_in_mb")
    (folder / "meta" / "info.json").write_text(json.dumps({key: info[key] for key in info if key not in dropped}))
    return folder


@pytest.mark.minutes
@pytest.mark.processes
def test_the_command_that_converts_an_older_format_runs_as_it_is_printed(project, small_base):
    new = write_dataset(project / "new", lengths=(20,) * 6, use_videos=False)
    old = write_old_format(project / "old recordings", new)
    with pytest.raises(SigmaError, match=r"'v2\.1' is not read, only 'v3\.0'; convert it with: ") as error:
        fetch.run(parameters(old, small_base))
    command = str(error.value).partition("convert it with: ")[2].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert fetch.run(parameters(old, small_base)).startswith("fetch: 6 episodes, 120 frames, 2 tasks")


def test_an_incomplete_dataset_is_refused(project, copy, small_base):
    next((copy / "data").rglob("*.parquet")).unlink()
    refused(project, r"file-000\.parquet: not found, but the metadata names it", dataset=copy, base=small_base)


def test_a_path_that_leaves_the_folder_is_refused(project, copy, small_base):
    (project / "secret").write_text("secret")
    info = json.loads((copy / "meta" / "info.json").read_text()) | {"data_path": "../secret"}
    (copy / "meta" / "info.json").write_text(json.dumps(info))
    refused(project, "data_path: '../secret' leaves the dataset's folder", dataset=copy, base=small_base)


def test_an_unknown_base_is_refused_before_the_dataset_is_copied(project, small_dataset):
    refused(project, "missing_base", dataset=small_dataset, base=project / "missing_base")


def test_the_output_is_no_source(project, small_dataset, small_base):
    fetch.run(parameters(small_dataset, small_base))
    with pytest.raises(SigmaError, match="is the folder that fetch writes"):
        fetch.run(parameters(Path("data/dataset"), small_base))
    assert Path("data/dataset/meta/info.json").is_file()


@pytest.mark.parametrize(
    ("source", "revision", "words"),
    [
        (
            "nowhere",
            None,
            "fetch.dataset.source: 'nowhere' is no folder here; legal: embedded, a LeRobotDataset folder",
        ),
        ("a/b/c", None, "fetch.dataset.source: 'a/b/c' is no folder here"),
        (
            "lerobot/svla_so101_pickplace",
            None,
            r"fetch\.dataset\.revision: .* needs a commit; legal: 40 hex digits, which "
            "`git ls-remote https://huggingface.co/datasets/lerobot/svla_so101_pickplace main` prints",
        ),
        (
            "https://huggingface.co/datasets/me/demos/tree/main",
            None,
            "write the Hub id me/demos, and as revision what `git ls-remote https://huggingface.co/datasets/",
        ),
        ("hf.co/datasets/me/demos", None, "write the Hub id me/demos, and as revision"),
        ("hf://datasets/me/demos", None, "write the Hub id me/demos, and as revision"),
        ("datasets/me/demos", None, "write the Hub id me/demos, and as revision"),
        ("$NOWHERE_SET/demos/../x", None, r"is no folder here; the variable NOWHERE_SET is not set; legal"),
        ("~/no/such/demos", None, rf"'~/no/such/demos' is no folder here \({Path.home()}/no/such/demos\); legal"),
        ("embedded", REVISION, "fetch.dataset.revision: 'embedded' is a folder, only a Hub id has a revision"),
    ],
)
def test_sources_and_revisions_must_fit(project, small_base, source, revision, words):
    refused(project, words, dataset=source, base=small_base, fetch__dataset__revision=revision)


@pytest.mark.parametrize("source", ["~/demos", "$DEMOS/demos"])
def test_a_folder_is_found_as_a_shell_would_find_it(project, copy, small_base, monkeypatch, source):
    shutil.copytree(copy, project / "home" / "demos")
    monkeypatch.setenv("HOME", str(project / "home"))
    monkeypatch.setenv("DEMOS", str(project / "home"))
    fetch.run(parameters(source, small_base))
    assert json.loads(Path("data/dataset.json").read_text())["source"] == source


def test_a_dataset_that_was_recorded_here_and_never_pushed_is_found_by_its_id(project, copy, small_base, monkeypatch):
    shutil.copytree(copy, project / "lerobot" / "me" / "demos")
    monkeypatch.setattr("lerobot.utils.constants.HF_LEROBOT_HOME", project / "lerobot")
    refused(project, r"me/others\), and as a Hub id it needs a commit", dataset="me/others", base=small_base)
    assert " tasks from me/demos (" in fetch.run(parameters("me/demos", small_base))


def test_a_relative_path_in_the_copy_that_dvc_makes_of_a_project_is_explained(project, copy, small_base, monkeypatch):
    (project / ".dvc/tmp/exps/standalone/x").mkdir(parents=True)
    monkeypatch.chdir(project / ".dvc/tmp/exps/standalone/x")
    with pytest.raises(SigmaError, match=r"'my/own/demos' is no folder here; DVC runs .* write an absolute path"):
        fetch.run(parameters("my/own/demos", small_base))
    with pytest.raises(
        SigmaError, match=r"params\.yaml: fetch\.base: .* bases/mine needs a revision .*; DVC runs this"
    ):
        fetch.run(parameters(str(copy), "bases/mine"))


def test_a_local_folder_has_no_revision(project, small_dataset, small_base):
    refused(
        project,
        "only a Hub id has a revision",
        dataset=small_dataset,
        base=small_base,
        fetch__dataset__revision=REVISION,
    )


def test_a_hub_id_out_of_reach_is_named(project, small_base):
    refused(
        project,
        f"nobody/nothing@{REVISION}: it is not whole in the cache .*and the Hub cannot be reached",
        dataset="nobody/nothing",
        base=small_base,
        fetch__dataset__revision=REVISION,
    )


@pytest.mark.parametrize("revision", ["main", "F" * 40, "f" * 39])
def test_a_branch_is_no_revision(revision):
    with pytest.raises(
        SigmaError, match=r"params\.yaml: fetch\.dataset\.revision: .*legal: null for a folder, or a commit"
    ):
        parameters(fetch__dataset__revision=revision)
