"""Both sides of a comparison do the same work: the peer sees our windows, and gives our numbers."""

import numpy as np
import pytest
import torch

from sigma.data.dataset.dataset import ACTION, STATE
from sigma.shared.resize import to_resolution
from sigma.studies.benchmark.lerobot_data import dataset_rows, deltas, open_lerobot, usable_backends
from sigma.studies.benchmark.time_evaluation import SigmaByWindow, WindowByWindow, base_replay, chosen_windows, take
from sigma.studies.benchmark.time_loading import ShardWindows, Stream, new_loader, read_windows
from sigma.studies.benchmark.time_training import LeRobotSteps, SigmaSteps
from tests.studies.benchmark.projects import project_of
from tests.worlds import ADAPTED


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
        present = ours["present"][index]
        assert torch.equal(~item[f"{STATE}_is_pad"], present)
        assert torch.equal(item[STATE][present], ours["state"][index][present])
        assert torch.equal(~item[f"{ACTION}_is_pad"], ours["valid"][index])
        assert torch.equal(item[ACTION], ours["action"][index])
        for view, camera in enumerate(shards.meta["dataset_cameras"]):
            assert item[camera].dtype == torch.uint8
            resized = to_resolution(item[camera][present], shards.meta["resolution"])
            difference = resized.int() - ours["images"][index, present, view].int()
            # Two conversions from the video's colours, the same frame: another one differs by up to 170.
            assert difference.abs().max() <= 4


def test_both_loaders_give_every_train_window_once_an_epoch_in_the_same_order(project):
    shards = project.shards()
    windows = np.flatnonzero(shards.window_split == "train")
    count = -(-len(windows) // 8)
    theirs = open_lerobot(project.root / "data/dataset", "pyav", shards.meta)
    rows = dataset_rows(theirs, shards, windows)
    drawn = [np.asarray(batch) for batch in Stream(windows, 8, count)]
    assert sorted(np.concatenate(drawn)[: len(windows)]) == sorted(windows)
    again = [np.asarray(batch) for batch in Stream(rows, 8, count)]
    place = dict(zip(windows.tolist(), rows.tolist(), strict=True))
    assert all([place[one] for one in first] == second.tolist() for first, second in zip(drawn, again, strict=True))
    loader = new_loader(ShardWindows(shards.folder), Stream(windows, 8, 2), 0)
    for batch, chosen in zip(loader, drawn[:2], strict=True):
        assert torch.equal(batch["action"], torch.from_numpy(shards.window_action[chosen]))


def test_the_history_asked_of_lerobot_is_that_of_the_windows(project):
    meta = project.shards().meta
    asked = deltas(meta)
    assert asked[STATE] == pytest.approx([-0.8, -0.4, 0.0]), "three decisions, four steps apart, at 10 Hz"
    assert asked[ACTION] == pytest.approx([index / 10 for index in range(16)])
    assert set(asked) == {STATE, ACTION, *meta["dataset_cameras"]}


def test_a_backend_that_does_not_work_here_says_why(project, monkeypatch):
    from sigma.studies.benchmark import lerobot_data

    def refuse(root, backend, meta):
        if backend == "torchcodec":
            raise RuntimeError("libavutil is\nmissing")
        return open_lerobot(root, backend, meta)

    monkeypatch.setattr(lerobot_data, "open_lerobot", refuse)
    found, faults = usable_backends(project.root / "data/dataset", project.shards().meta)
    assert found == ["pyav"] and faults == {"torchcodec": "RuntimeError: libavutil is missing"}


def test_lerobots_policy_gives_the_samples_of_the_baseline_stage(project):
    whole = project.shards()
    shards = take(whole, chosen_windows(whole, 6))
    samples = project.parameters.base.samples
    ours = base_replay(project, shards, samples)()
    peer = WindowByWindow(project, shards, samples)
    for window in range(len(shards.window_step)):
        expected = np.concatenate([ours.columns["base_zero_noise"][window][None], ours.columns["base_samples"][window]])
        # Another batch shape takes other kernels.
        assert np.abs(peer.predict(window) - expected).max() < 1e-4
        assert np.abs(peer.predict_by_draw(window) - expected).max() < 1e-4


def test_windows_taken_out_are_those_of_the_whole(project):
    whole = project.shards()
    windows = chosen_windows(whole, 6)
    some = take(whole, windows)
    assert len(windows) >= 6 and set(whole.window_episode[windows]) == set(some.window_episode)
    assert torch.equal(some.images(some.window_frames[:, -1]), whole.images(whole.window_frames[windows, -1]))
    assert np.array_equal(some.frame_step[some.window_frames[:, -1]], some.window_step)
    assert np.array_equal(some.window_frames >= 0, whole.window_frames[windows] >= 0)


def test_sigma_as_a_policy_gives_the_plan_of_its_replay(trained_adapted):
    """At scale 1, so that the executed plan is the adapted action and the residuals on it."""
    from sigma.evaluation.replay.sigma_replay import decide, open_model
    from sigma.studies.benchmark.models import material_of

    project = project_of(trained_adapted, ADAPTED, {"adapter": {"min_scale": 1.0, "max_scale": 1.0}})
    material = material_of(project)
    model, branch = open_model(material, project.root / "models/sigma")
    first = np.flatnonzero(material.shards.window_step == 0)[:3]
    ours = decide(model, material, branch, first, 8, "test")
    plan = ours["adapted_action"] + ours["residual_trajectory"]
    plan[:, : ours["residual_chunk"].shape[1]] = (ours["adapted_action"][:, :4] + ours["residual_chunk"])[:, :4]
    plan[:, 0] = ours["adapted_action"][:, 0] + ours["residual_vector"].reshape(len(first), -1)
    peer = SigmaByWindow(project, material.shards)
    raw = material.builder.normalisation.action.unnormalise(plan)
    for index, window in enumerate(first):
        assert np.abs(peer.predict(int(window)) - raw[index]).max() < 1e-2


def test_both_trainings_see_the_same_windows_and_tokens(project):
    ours, theirs = SigmaSteps(project, "residual"), LeRobotSteps(project)
    rows = ours.phase.objective.train[ours.phase.objective.rows(0)]
    batch = theirs.batch()
    observation = ours.material.observation(rows)
    assert torch.equal(batch["observation.language.tokens"], observation.tokens)
    assert torch.equal(batch[ACTION][:, : project.shards().meta["horizon"]], ours.material.targets(rows)[0])
    assert theirs.tuned.peft_config["default"].r == project.parameters.lora.rank


def test_steps_of_both_sides_train_what_they_say(project):
    ours, theirs = SigmaSteps(project, "residual", branch="frozen"), LeRobotSteps(project)
    for steps, parameters in (
        (ours, list(ours.phase.named.values())),
        (theirs, [one for one in theirs.tuned.parameters() if one.requires_grad]),
    ):
        assert steps.trained == sum(one.numel() for one in parameters) > 0
        before = [one.detach().clone() for one in parameters]
        steps.step()
        assert any(not torch.equal(one, old) for one, old in zip(parameters, before, strict=True))
    assert ours.phase.step == 1 and theirs.turn == 1
