"""Plain LoRA with past frames: what it reads, that training reads what a robot gives, and that the base reads none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sigma.policy.model import lora
from sigma.policy.pi05.observation import base_pass
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.arm_folder import FRAMES
from sigma.studies.study.cells.workspace import Workspace
from sigma.studies.study.play.players import arm_players, load_player, read_base
from sigma.studies.study.train.past_frames import PastFrameBatches
from sigma.training.flow import FlowModel
from tests.trained_arms import write_lora
from tests.worlds import World, inside


@pytest.fixture
def folder(trained, tmp_path):
    return write_lora(trained, tmp_path / "past_frames-0", "past_frames", "frames")


def load(world: World, folder, name: str, steps: int):
    with inside(world.root):
        workspace = Workspace(Path("."))
        reference, features = read_base(workspace)
        player = next(one for one in arm_players(folder, folder, workspace) if one.name == name)
        return load_player(
            player, reference=reference, features=features, parameters=world.configure(), n_action_steps=steps
        )


def test_the_last_frames_that_memory_reads_are_read_and_an_episodes_first_stands_for_those_before_it(trained):
    batches = PastFrameBatches.of(trained.material())
    shards, stride = batches.shards, batches.shards.meta["memory_stride"]
    frames = np.arange(len(shards.frame_step))
    for frame, rows in zip(frames, batches.earlier_frames(frames), strict=True):
        step = int(shards.frame_step[frame])
        steps = [earlier for earlier in range(0, step, stride)][-FRAMES:] or [step]
        steps = [steps[0]] * (FRAMES - len(steps)) + steps
        assert shards.frame_step[rows].tolist() == steps
        assert set(shards.frame_episode[rows]) == {shards.frame_episode[frame]}


def test_cached_tokens_are_those_of_the_pictures(trained, monkeypatch):
    plain, cached = (PastFrameBatches.of(trained.material()) for _ in range(2))
    windows = np.arange(len(plain.split))
    cached.cache_vision(windows, 4)
    now = plain.shards.window_frame[windows]
    expected = plain.earlier(now)

    def encode(images):
        raise AssertionError("the tokens are cached")

    monkeypatch.setattr(cached.builder, "encode_images", encode)
    torch.testing.assert_close(cached.earlier(now), expected, rtol=0, atol=1e-5)


def test_earlier_frames_move_no_other_token_and_change_what_is_decided(trained):
    batches = PastFrameBatches.of(trained.material())
    seen, _ = batches.observation(np.arange(4))
    alone, _ = trained.material().observation(np.arange(4))
    assert alone.earlier is None
    with torch.no_grad():
        both = [base_pass(batches.base.policy, one).encoded for one in (seen, alone)]
    added = seen.earlier.shape[1]
    assert both[0].appended == added == FRAMES * seen.vision.shape[1] * seen.vision.shape[2]
    assert both[0].pad_mask.shape[1] == both[1].pad_mask.shape[1] + added
    keys = [next(iter(one.cache))[0] for one in both]  # of the first layer
    torch.testing.assert_close(keys[0][:, :, :-added], keys[1])
    assert not torch.allclose(both[0].last[:, :-added], both[1].last)


def test_a_robot_is_decided_for_as_the_recording_of_it(trained, folder):
    batches = PastFrameBatches.of(trained.material())
    shards, stride = batches.shards, batches.shards.meta["memory_stride"]
    model = FlowModel(lora.load(batches.base.policy, folder / "model")).eval()
    episode = int(shards.window_episode[np.flatnonzero(batches.split == "train")[0]])
    windows = np.flatnonzero((shards.window_episode == episode) & (shards.window_step % stride == 0))
    windows = windows[np.argsort(shards.window_step[windows])]
    assert shards.window_step[windows].tolist() == list(range(0, stride * len(windows), stride)) and len(windows) > 2
    with torch.no_grad():
        passed = model.adapted_pass(*batches.observation(windows))
        expected = batches.decide(model.policy, passed.encoded, windows, "zero_noise").numpy()
    controller = load(trained, folder, "past_frames_zero_noise", stride)
    controller.reset([0])
    for window, plan in zip(windows, expected, strict=True):
        frame = shards.window_frame[window]
        pictures = shards.images(np.array([frame]))[0].permute(0, 2, 3, 1).numpy()
        view = {
            "images": dict(zip(shards.meta["cameras"], pictures, strict=True)),
            "state": shards.frame_state[frame],
            "task": shards.tasks[shards.window_task[window]],
        }
        found = batches.builder.normalisation.action.normalise(controller.act([view], [0])[0].astype(np.float32))
        np.testing.assert_allclose(found[: len(plan)], plan, atol=1e-4)


def test_steps_that_do_not_divide_the_stride_are_refused(trained, folder):
    with pytest.raises(SigmaError, match="n_action_steps: found 3; legal: divisors of 4"):
        load(trained, folder, "past_frames_zero_noise", 3)
