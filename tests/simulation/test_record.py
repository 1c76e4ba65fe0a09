from collections import Counter

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.seeding import seed_from
from sigma.simulation import record
from sigma.simulation.record import Demonstration, demonstration, demonstrations, recorded_scenario
from sigma.simulation.tasks import TARGET, TASKS
from sigma.tools.simulate import run


def _episode(seed: int, index: int, noise: float = 1.5) -> Demonstration:
    return demonstration(TARGET, seed, index, noise, (), 96)


def test_same_seed_and_index_give_the_same_episode():
    first, again = _episode(7, 0), _episode(7, 0)
    assert np.array_equal(first.states, again.states) and np.array_equal(first.actions, again.actions)
    assert not np.array_equal(first.states[0], _episode(8, 0).states[0])


def test_episode_does_not_depend_on_those_before_it():
    alone = _episode(7, 1)
    _episode(3, 4)
    assert np.array_equal(alone.states, _episode(7, 1).states)


def test_workers_change_neither_episodes_nor_their_order():
    jobs = [(name, 5, index, 1.5, (), 96) for index in range(3) for name in ("reach", "carry")]
    alone, shared = (list(demonstrations(jobs, workers)) for workers in (1, 2))
    assert [len(episode.actions) for episode in alone] == [len(episode.actions) for episode in shared]
    assert all(np.array_equal(a.states, b.states) for a, b in zip(alone, shared, strict=True))


def test_instructions_take_turns_and_so_do_their_wordings():
    told = [recorded_scenario(TARGET, 7, index, 0)[1].instruction for index in range(6, 6 + 2 * 16)]
    red, blue = TASKS[TARGET].instructions
    assert Counter(told) == dict.fromkeys((*red.wordings, *blue.wordings), 2)
    assert told[0] in red.wordings and told[1] in blue.wordings
    assert _episode(7, 3).instruction == blue.wordings[1]


def test_recording_and_rollout_seeds_are_disjoint():
    recorded = {seed_from("record", TARGET, seed, index, 0) for seed in range(20) for index in range(100)}
    assert recorded.isdisjoint(seed_from("rollout", TARGET, seed) for seed in range(2000))


def test_noise_moves_the_arm_and_leaves_the_first_label():
    clean, noisy = _episode(7, 0, noise=0.0), _episode(7, 0, noise=1.5)
    assert np.array_equal(clean.actions[0], noisy.actions[0])
    steps = min(len(clean.states), len(noisy.states))
    deviation = np.abs(clean.states[:steps] - noisy.states[:steps])
    assert 0.2 < deviation[:20].mean() < 5


def test_noisy_demonstrations_still_succeed():
    assert sum(_episode(11, index).rejected for index in range(10)) <= 1


def test_failed_attempts_are_left_out_and_counted(monkeypatch):
    original, asked = record.attempt, []

    def first_fails(world, name, address, *rest):
        asked.append(address)
        return None if len(asked) == 1 else original(world, name, address, *rest)

    monkeypatch.setattr(record, "attempt", first_fails)
    assert _episode(7, 0).rejected == 1
    assert len(set(asked)) == 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "dataset"
    line = run(tasks=["reach", "carry"], episodes=[2, 1], seed=3, output=path, size=64, noise=1.0, workers=1)
    return path, line


@pytest.mark.render
def test_recorded_dataset_reloads_with_its_features(dataset):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    path, line = dataset
    loaded = LeRobotDataset("sigma/dataset", root=path, video_backend="pyav")
    assert (loaded.meta.total_episodes, loaded.fps, loaded.meta.robot_type) == (3, 10, "so101_follower")
    assert "3 episodes" in line and str(loaded.meta.total_frames) in line
    frame = loaded[0]
    assert frame["observation.images.up"].shape == frame["observation.images.wrist"].shape == (3, 64, 64)
    assert loaded.meta.features["action"]["names"] == loaded.meta.features["observation.state"]["names"]
    tasks = [loaded[int(episode["dataset_from_index"])]["task"] for episode in loaded.meta.episodes]
    assert tasks == [
        TASKS["reach"].instructions[0].wordings[0],
        TASKS["carry"].instructions[0].wordings[0],
        TASKS["reach"].instructions[0].wordings[1],
    ]


@pytest.mark.render
def test_recorded_rows_are_the_demonstrations(dataset):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    loaded = LeRobotDataset("sigma/dataset", root=dataset[0], video_backend="pyav")
    expected = demonstration("carry", 3, 0, 1.0, ("up", "wrist"), 64)
    span = slice(loaded.meta.episodes[1]["dataset_from_index"], loaded.meta.episodes[1]["dataset_to_index"])
    rows = loaded.hf_dataset.with_format("numpy")[span]
    assert np.array_equal(np.stack(rows["action"]), expected.actions)
    assert np.array_equal(np.stack(rows["observation.state"]), expected.states)
    view = loaded[span.start]["observation.images.wrist"].numpy().transpose(1, 2, 0) * 255
    assert np.abs(view - expected.images["wrist"][0]).mean() < 6


@pytest.mark.render
def test_an_existing_folder_is_not_overwritten(dataset):
    with pytest.raises(SigmaError, match="exists already"):
        run(tasks=["reach"], episodes=[1], seed=3, output=dataset[0], size=64, noise=0.0, workers=1)


@pytest.mark.parametrize(
    ("tasks", "episodes", "message"),
    [(["stack"], [1], "'stack'"), (["reach", "lift"], [1, 2, 3], "one a task"), (["reach", "reach"], [1], "twice")],
)
def test_bad_requests_are_refused_and_leave_nothing(tmp_path, tasks, episodes, message):
    with pytest.raises(SigmaError, match=message):
        run(tasks=tasks, episodes=episodes, seed=0, output=tmp_path / "out", size=64, noise=0.0, workers=1)
    assert not list(tmp_path.iterdir())
