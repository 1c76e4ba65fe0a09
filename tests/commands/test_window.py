import ast
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sigma
from sigma.commands import audit, fetch, window
from sigma.data.shards import Shards
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json, write_json
from tests.commands.data_stages import parameters
from tests.datasets import CAMERAS, JOINTS, TASKS


@pytest.fixture(scope="module")
def fetched(tmp_path_factory, small_dataset, small_base):
    folder = tmp_path_factory.mktemp("window") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fetch.run(parameters(small_dataset, small_base))
        write_json(Path("data/episodes.json"), {"used": list(range(8)), "excluded": {}})
    return folder


@pytest.fixture
def ready(project, fetched):
    return shutil.copytree(fetched, project, dirs_exist_ok=True)


def edit(name, **changes):
    path = Path(name)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(words, **changes):
    with pytest.raises(SigmaError, match=words) as error:
        window.run(parameters(**changes))
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in Path("data").iterdir()) == [
        "base.json",
        "dataset",
        "dataset.json",
        "episodes.json",
        "start",
    ]


def digests():
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path("data/shards").iterdir()}


def test_shards_hold_everything_once_the_dataset_is_gone(ready):
    line = window.run(parameters())
    assert line.startswith("window: kept train ")
    shutil.rmtree("data/dataset")
    shards = Shards.open(Path("data/shards"))
    meta = shards.meta
    assert (meta["horizon"], meta["chunk"], meta["chunk_size"], meta["fps"]) == (16, 8, 16, 10)
    assert (meta["train_stride"], meta["eval_stride"], meta["memory_stride"]) == (4, 16, 8)
    assert meta["trace"] == shards.frame_trace.shape[1] == 8
    assert (meta["cameras"], meta["resolution"]) == (list(CAMERAS), 32)
    assert (meta["joint_names"], meta["tasks"]) == (list(JOINTS), list(TASKS))
    assert meta["dataset"]["digest"] == json.loads(Path("data/dataset.json").read_text())["digest"]
    assert [len(meta["splits"][name]) for name in ("train", "validation", "test")] == [4, 2, 2]
    assert shards.images(np.arange(3)).shape == (3, 2, 3, 32, 32)
    for name, count in meta["counts"].items():
        assert (shards.window_split == name).sum() == count["kept"] == count["candidates"]


def imported_modules(name: str) -> set[str]:
    """Every module of the package that ``name`` imports, at its top or inside a function, directly or not."""
    found, queue = set(), [name]
    while queue:
        module = queue.pop()
        path = Path(sigma.__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py")
        if module in found or not path.is_file():
            continue
        found.add(module)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                queue += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                queue += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("stage", ["baseline", "finetune", "evaluate", "report"])
def test_later_stages_cannot_read_the_dataset(stage):
    modules = imported_modules(f"sigma.commands.{stage}")
    assert len(modules) > 5
    assert not modules & {
        "sigma.data.dataset.dataset",
        "sigma.data.dataset.video",
        "sigma.data.windows.packing",
        "sigma.data.dataset.origin",
    }
    assert "sigma.data.dataset.dataset" in imported_modules("sigma.commands.window")


def test_excluded_episodes_are_in_no_split(ready):
    edit("data/episodes.json", used=[0, 1, 2, 4, 5, 7], excluded={"3": "failed jump", "6": "failed jump"})
    line = window.run(parameters())
    assert line.endswith("2 of 8 episodes excluded by the audit")
    metrics = json.loads(Path("metrics/window.json").read_text())
    assert metrics["episodes"] == {"recorded": 8, "excluded": 2, "train": 2, "validation": 2, "test": 2}
    shards = Shards.open(Path("data/shards"))
    assert sorted(episode for part in shards.meta["splits"].values() for episode in part) == [0, 1, 2, 4, 5, 7]
    assert not set(shards.window_episode) & {3, 6}
    assert metrics["windows"] == shards.meta["counts"]


def test_a_task_without_words_that_no_used_episode_has_leaves_later_stages_nothing_empty(ready):
    table = Path("data/dataset/meta/tasks.parquet")
    tasks = pd.read_parquet(table)
    blank = pd.DataFrame({"task_index": [len(tasks)]}, index=pd.Index([" "], name=tasks.index.name))
    pd.concat([tasks, blank]).to_parquet(table)
    edit("data/dataset.json", digest=digest_folder(Path("data/dataset")))
    window.run(parameters())
    told = read_json(Path("data/shards/meta.json"))["tasks"]
    assert len(told) == len(tasks) + 1 and all(told)


def test_an_episode_that_fails_is_in_no_later_count(ready):
    """From the fault in the table through the audit's rule to the windows."""
    record, path = Path("data/dataset.json"), next(Path("data/dataset/data").rglob("*.parquet"))
    table = pd.read_parquet(path)
    rows = (table.episode_index == 5).to_numpy()
    cut = [vector[:5] if row else vector for vector, row in zip(table.action, rows, strict=True)]
    table.assign(action=cut).to_parquet(path)
    write_json(record, read_json(record) | {"digest": digest_folder(Path("data/dataset"))})
    assert "1 episodes excluded" in audit.run(parameters(audit__on_failure="exclude"))
    line = window.run(parameters())
    assert line.endswith("1 of 8 episodes excluded by the audit")
    assert 5 not in Shards.open(Path("data/shards")).window_episode


@pytest.mark.processes
def test_bytes_depend_on_neither_workers_nor_time(ready):
    window.run(parameters(window__shard_mib=1, window__train_stride=1))
    once = digests()
    window.run(parameters(window__shard_mib=1, window__train_stride=1, machine__workers=2))
    assert digests() == once
    assert len(once) > 3


def test_another_seed_draws_another_split(ready):
    splits = []
    for seed in (0, 1, 0):
        window.run(parameters(window__seed=seed))
        splits.append(Shards.open(Path("data/shards")).meta["splits"])
    assert splits[0] == splits[2] != splits[1]


def test_cameras_are_mapped_left_out_and_ordered_by_the_base(ready):
    window.run(parameters(window__cameras={CAMERAS[0]: CAMERAS[1], CAMERAS[1]: None}))
    shards = Shards.open(Path("data/shards"))
    assert (shards.meta["cameras"], shards.meta["dataset_cameras"]) == ([CAMERAS[0]], [CAMERAS[1]])
    swapped = shards.images(np.arange(4))
    window.run(parameters())
    both = Shards.open(Path("data/shards")).images(np.arange(4))
    np.testing.assert_array_equal(swapped[:, 0], both[:, 1])


def test_a_camera_that_the_dataset_lacks_is_named(ready):
    edit("data/base.json", cameras=[CAMERAS[0], "observation.images.side"])
    refused(r"window\.cameras\.observation\.images\.side: .* has no 'observation\.images\.side'; legal: null .*wrist")


def test_a_camera_that_the_base_lacks_is_named(ready):
    refused(r"window\.cameras\.top: no camera of the base; legal: .*up", window__cameras={"top": CAMERAS[0]})


def test_leaving_out_every_camera_is_refused(ready):
    refused("every camera of the base is left out", window__cameras=dict.fromkeys(CAMERAS))


def test_a_horizon_beyond_the_base_is_refused(ready):
    edit("data/base.json", chunk_size=12)
    refused(r"window\.horizon: 16 steps, but the base predicts 12; legal: 1 to 12")


def test_more_joints_than_the_base_takes_are_refused(ready):
    edit("data/base.json", action_dim=5)
    refused(r"6 joints, but the base takes at most 5 \(action_dim\)")


def test_too_many_held_out_episodes_are_refused(ready):
    refused(r"window\.validation \+ window\.test: 4 \+ 4 episodes", window__validation=4, window__test=0.5)


@pytest.mark.parametrize("few", [0, 1])
def test_fewer_validation_episodes_than_a_calibration_needs_are_refused_here_already(ready, few):
    refused(rf"window\.validation: {few} of 8 episodes; legal: at least 2", window__validation=few)


def test_a_missing_base_names_the_stage_that_writes_it(ready):
    Path("data/base.json").unlink()
    with pytest.raises(SigmaError, match=r"^data/base\.json: not found; run the stage"):
        window.run(parameters())


def test_an_unknown_excluded_joint_is_refused(ready):
    refused(r"window\.exclude_joints: no joint 'hand'; legal: shoulder_pan\.pos", window__exclude_joints=["hand"])


def test_joints_whose_movement_is_critical_are_chosen_by_pattern_or_none_is(ready):
    changes = {"window__critical_joints": ["*GRIPPER*", "elbow_flex.pos", "claw"]}
    assert "critical" not in window.run(parameters(**changes))
    assert Shards.open(Path("data/shards")).meta["critical_joints"] == ["elbow_flex.pos", "gripper.pos"]
    line = window.run(parameters(window__critical_joints=["claw"]))
    assert line.endswith("no joint fits window.critical_joints, so no window is critical")
    assert Shards.open(Path("data/shards")).meta["critical_joints"] == []


def test_the_length_of_the_trace_is_a_parameter(ready):
    window.run(parameters(window__trace=8))
    longest = Shards.open(Path("data/shards"))
    for length in (0, 3):
        window.run(parameters(window__trace=length))
        shards = Shards.open(Path("data/shards"))
        assert shards.meta["trace"] == length
        np.testing.assert_array_equal(shards.frame_trace, longest.frame_trace[:, 8 - length :])


def test_memory_reads_at_any_stride_whatever_the_decisions_stride_is(ready):
    for stride in (3, 8):
        window.run(parameters(window__memory_stride=stride))
        shards = Shards.open(Path("data/shards"))
        assert shards.meta["memory_stride"] == stride
        for episode, frames in shards.memory_frames().items():
            last = shards.window_step[shards.window_episode == episode].max()
            before = shards.frame_step[frames][shards.frame_step[frames] < last]
            assert before.tolist() == list(range(0, last, stride))


def test_without_held_out_episodes_every_window_is_one_of_training_and_those_without_overlap_are_counted(ready):
    line = window.run(parameters(window__test=0, window__validation=0))
    shards = Shards.open(Path("data/shards"))
    assert [len(shards.meta["splits"][name]) for name in ("train", "validation", "test")] == [8, 0, 0]
    assert set(shards.window_split) == {"train"}
    counts = shards.meta["counts"]
    assert f"{sum(one['strided'] for one in counts.values())} without overlap" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window__chunk": 17}, r"window\.chunk: .*longer than window\.horizon \(16\), found 17"),
        ({"window__train_stride": 5}, r"window\.train_stride: must divide window\.horizon \(16\), found 5"),
        ({"window__eval_stride": 12}, r"window\.eval_stride: must divide window\.horizon \(16\) or be a multiple"),
    ],
)
def test_strides_that_do_not_fit_each_other_are_named(changes, words):
    with pytest.raises(SigmaError, match=rf"^params\.yaml: {words}"):
        parameters(**changes)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_held_out_strides_that_fit_the_horizon_are_taken(stride):
    assert parameters(window__eval_stride=stride).window.eval_stride == stride
