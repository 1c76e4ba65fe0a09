"""Both sides of a comparison do the same work: the peer sees our windows, and gives our numbers."""

import numpy as np
import pytest
import torch

from sigma.data.dataset.dataset import ACTION, STATE
from sigma.shared.resize import to_resolution
from sigma.studies.benchmark.time_evaluation import WindowByWindow, base_replay, chosen_windows, take
from sigma.studies.benchmark.time_loading import (
    ShardWindows,
    dataset_rows,
    deltas,
    lerobot_side,
    new_loader,
    open_lerobot,
    read_windows,
)
from sigma.studies.benchmark.time_training import LeRobotSteps, TrainerSteps, plain_lora
from sigma.training.trainer import Trainer
from tests.studies.benchmark.projects import project_of


@pytest.fixture(scope="module")
def project(prepared):
    return project_of(prepared)


def test_lerobots_items_are_the_windows_of_the_shards(project):
    shards, folder = project.shards(), project.root / "data/dataset"
    windows = np.arange(0, len(shards.window_step), 5)
    ours = read_windows(shards, windows)
    theirs = open_lerobot(folder, "pyav", shards.meta)
    rows = dataset_rows(theirs, shards, windows)
    assert shards.window_valid[windows].all(axis=1).sum() < len(windows), "some reach past an episode's end"
    for index, row in enumerate(rows.tolist()):
        item = theirs[row]
        assert torch.equal(item[STATE], ours["state"][index])
        assert torch.equal(~item[f"{ACTION}_is_pad"], ours["valid"][index])
        assert torch.equal(item[ACTION], ours["action"][index])
        for view, camera in enumerate(shards.meta["dataset_cameras"]):
            assert item[camera].dtype == torch.uint8
            resized = to_resolution(item[camera].squeeze(0), shards.meta["resolution"])
            difference = resized.int() - ours["images"][index, view].int()
            # Two conversions from the video's colours, the same frame: another one differs by up to 170.
            assert difference.abs().max() <= 4


def test_both_loaders_give_the_same_windows_in_the_same_order(project):
    shards = project.shards()
    windows = np.flatnonzero(shards.window_split == "train")
    theirs = open_lerobot(project.root / "data/dataset", "pyav", shards.meta)
    rows = [windows.tolist(), dataset_rows(theirs, shards, windows).tolist()]
    own = new_loader(ShardWindows(shards.folder), rows[0], 8, 0)
    peer = new_loader(theirs, rows[1], 8, 0)
    for _ in range(2):
        actions = torch.cat([batch["action"] for batch in own])
        assert torch.equal(actions, torch.cat([batch[ACTION] for batch in peer]))
        assert torch.equal(actions, torch.from_numpy(shards.window_action[windows]))
        windows = windows[::-2].copy()
        rows[0][:], rows[1][:] = windows.tolist(), dataset_rows(theirs, shards, windows).tolist()


def test_what_is_asked_of_lerobot_is_that_of_the_windows(project):
    meta = project.shards().meta
    asked = deltas(meta)
    assert asked[STATE] == pytest.approx([-0.3, -0.2, -0.1, 0.0]), "three steps before now, at 10 Hz"
    assert asked[ACTION] == pytest.approx([index / 10 for index in range(16)])
    assert set(asked) == {STATE, ACTION, *meta["dataset_cameras"]}
    assert all(asked[camera] == [0.0] for camera in meta["dataset_cameras"])


def test_a_backend_that_does_not_work_here_says_why(project, monkeypatch):
    from sigma.studies.benchmark import time_loading
    from sigma.studies.benchmark.project import train_windows

    def refuse(root, backend, meta):
        if backend == "torchcodec":
            raise RuntimeError("libavutil is\nmissing")
        return open_lerobot(root, backend, meta)

    monkeypatch.setattr(time_loading, "open_lerobot", refuse)
    shards = project.shards()
    details = lerobot_side(project, shards, train_windows(shards), 0).details
    assert details["video_backend"] == "pyav"
    assert details["backends_that_fail"] == {"torchcodec": "RuntimeError: libavutil is missing"}


def test_lerobots_policy_gives_the_samples_of_the_baseline_stage(project):
    whole = project.shards()
    shards = take(whole, chosen_windows(whole, 6))
    ours, peer = base_replay(project, shards)(), WindowByWindow(project, shards)
    for window in range(len(shards.window_step)):
        expected = np.concatenate([ours.columns["base_zero_noise"][window][None], ours.columns["base_samples"][window]])
        # Another batch shape takes other kernels.
        assert np.abs(peer.predict(window) - expected).max() < 1e-4


def test_windows_taken_out_are_those_of_the_whole(project):
    whole = project.shards()
    windows = chosen_windows(whole, 6)
    some = take(whole, windows)
    assert len(windows) >= 6 and set(whole.window_episode[windows]) == set(some.window_episode)
    assert torch.equal(some.images(some.window_frame), whole.images(whole.window_frame[windows]))
    assert np.array_equal(some.frame_step[some.window_frame], some.window_step)
    before, after = whole.memory_frames(), some.memory_frames()
    for episode, frames in after.items():
        assert np.array_equal(some.frame_step[frames], whole.frame_step[before[episode]])


def test_all_trainings_see_the_same_windows_and_draw_as_often(project):
    ours, plain = (TrainerSteps(project, new_trainer, 3) for new_trainer in (Trainer, plain_lora))
    theirs = LeRobotSteps(project)
    objective = ours.phase.objective
    windows = objective.train[objective.rows(0)]
    assert np.array_equal(windows, plain.phase.objective.train[plain.phase.objective.rows(0)])
    batch = theirs.batch()
    observation, _ = ours.batches.observation(windows)
    assert torch.equal(batch["observation.language.tokens"], observation.tokens)
    assert torch.equal(batch[ACTION][:, : project.shards().meta["horizon"]], ours.batches.targets(windows)[0])
    assert theirs.tuned.peft_config["default"].r == project.parameters.lora.rank
    assert plain.trained == theirs.trained < ours.trained
    assert {steps.phase.objective.parameters.flow_draws for steps in (ours, plain)} == {3}
    assert [steps.side().details["noise_draws"] for steps in (ours, theirs)] == [3, 1]


def test_steps_of_every_side_train_what_they_say(project):
    ours, theirs = TrainerSteps(project, plain_lora, 1), LeRobotSteps(project)
    for steps, weights in (
        (ours, list(ours.phase.named.values())),
        (theirs, [weight for weight in theirs.tuned.parameters() if weight.requires_grad]),
    ):
        assert steps.trained == sum(weight.numel() for weight in weights) > 0
        before = [weight.detach().clone() for weight in weights]
        steps.step()
        assert any(not torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    assert ours.phase.step == 1 and theirs.turn == 1
