"""What training reads comes from one run, or is refused by name."""

import numpy as np
import pytest
import torch

from sigma.policy.model.model_folder import weights_dtype
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json
from sigma.training.augmentation import Augmentation
from tests.bases import STATISTICS
from tests.datasets import joint_positions
from tests.worlds import World


def edit(world: World, file: str, **changes) -> None:
    path = world.root / file
    write_json(path, read_json(path) | changes)


def test_features_of_another_base_are_refused(own):
    edit(own, "data/features/meta.json", base_digest="0" * 64)
    with pytest.raises(SigmaError, match="made with another base than"):
        own.material()


def test_weights_have_the_type_that_the_features_were_made_with(own):
    assert weights_dtype(own.material().base.policy) == "float32"
    edit(own, "data/features/meta.json", dtype="bfloat16")
    assert weights_dtype(own.material().base.policy) == "bfloat16"


def test_broken_or_foreign_features_and_predictions_are_refused(own, prepared):
    features = own.root / "data/features/features.safetensors"
    whole = features.read_bytes()
    features.write_bytes(whole[:50])
    with pytest.raises(SigmaError, match=r"features\.safetensors: not readable"):
        own.material()
    from safetensors.torch import load_file, save_file

    features.write_bytes(whole)
    tensors = load_file(features)
    save_file(tensors | {"pooled": tensors["pooled"][1:].clone()}, features)
    with pytest.raises(SigmaError, match=r"made from other shards|pooled has shape"):
        own.material()
    features.write_bytes(whole)
    (own.root / "data/predictions/baseline.parquet").unlink()
    with pytest.raises(SigmaError, match=r"baseline\.parquet: not found"):
        own.material()


def test_the_digest_follows_every_file_that_is_read(own, prepared):
    before = own.material().digest
    assert before == prepared.material().digest
    edit(own, "data/features/meta.json", token_rms=2.0)
    assert own.material().digest != before


@torch.no_grad()
def test_cached_image_tokens_are_those_of_a_fresh_pass(prepared):
    cached, fresh = prepared.material(), prepared.material()
    rows = np.array([3, 0, 41, 17])
    cached.cache_vision(rows, 4)
    assert sorted(cached.vision) == [(frame, 0) for frame in sorted(cached.shards.window_frame[rows])]
    seen, plain = (batches.observation(rows)[0].vision for batches in (cached, fresh))
    torch.testing.assert_close(seen, plain, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_views_are_cached_for_train_windows_alone_and_are_those_of_a_fresh_pass(prepared):
    cached, fresh = prepared.material(), prepared.material()
    cached.views = fresh.views = Augmentation(count=2, shift=1, light=0.1)
    train, validation = (np.flatnonzero(cached.split == name)[:3] for name in ("train", "validation"))
    cached.cache_vision(np.concatenate([train, validation]), 4)
    now = cached.shards.window_frame
    assert set(cached.vision) == {(frame, n) for frame in now[train] for n in range(3)} | {
        (f, 0) for f in now[validation]
    }
    numbers = np.array([2, 0, 1])
    seen = cached.observation(train, numbers=numbers)[0].vision
    torch.testing.assert_close(seen, fresh.observation(train, numbers=numbers)[0].vision, rtol=1e-4, atol=1e-5)
    plain = fresh.observation(train)[0].vision
    torch.testing.assert_close(seen[1], plain[1], rtol=1e-4, atol=1e-5)
    assert all((seen[row] - plain[row]).abs().max() > 1e-2 for row in (0, 2))


def test_state_noise_is_in_normalised_units_and_reaches_prompt_and_state(prepared):
    material, rows = prepared.material(), np.arange(4)
    plain, past = material.observation(rows)
    moved, same = material.observation(rows, np.full((4, 6), 0.25))
    torch.testing.assert_close(moved.state, plain.state + 0.25, rtol=0, atol=1e-5)
    assert not torch.equal(moved.tokens, plain.tokens)
    assert all(torch.equal(getattr(same, name), value) for name, value in vars(past).items()), "the past is as it was"


def test_state_noise_moves_the_trace_with_the_state_so_that_the_motion_stays(prepared):
    material, rows = prepared.material(), np.flatnonzero(prepared.shards.window_step > 0)[:4]
    (plain, _), (moved, _) = material.observation(rows), material.observation(rows, np.full((4, 6), 0.25))
    assert plain.motion.any()
    torch.testing.assert_close(moved.motion, plain.motion, rtol=0, atol=1e-5)


def recorded_motion(world: World, windows: np.ndarray) -> np.ndarray:
    """Normalised motion (W, 3, 6) before these windows, from the formula that the recorded joints follow."""
    quantiles, shards, found = STATISTICS["observation.state"], world.shards, []
    for window in windows:
        episode, step = int(shards.window_episode[window]), int(shards.window_step[window])
        rows = [joint_positions(episode, max(step - back, 0)) for back in (3, 2, 1)]
        change = np.stack(rows).astype(np.float64) - joint_positions(episode, step).astype(np.float64)
        found.append(2 * change / (quantiles.q99.astype(np.float64) - quantiles.q01))
    return np.stack(found)


def test_windows_have_the_motion_of_the_control_steps_before_them(prepared):
    rows = np.arange(len(prepared.shards.window_step))
    motion = recorded_motion(prepared, rows)
    assert not motion[prepared.shards.window_step == 0].any()
    np.testing.assert_allclose(prepared.material().observation(rows)[0].motion.numpy(), motion, rtol=0, atol=1e-5)


def test_memory_reads_the_frames_on_its_stride_before_each_decision(prepared):
    batches, quantiles = prepared.material(), STATISTICS["observation.state"]
    shards = batches.shards
    windows = np.array([30, 3, 7, 1, 4, 41])
    past = batches.past(windows)
    assert past.views.shape[:2] == past.states.shape[:2] == past.text.shape[:2]
    assert len(past.views) == len(set(shards.window_episode[windows])), "windows of one episode share a row"
    for place, window in enumerate(windows):
        episode, step = shards.window_episode[window], shards.window_step[window]
        expected = range(0, step, 4)
        row, reads = past.episode[place], int(past.reads[place])
        assert reads == len(expected)
        for read, earlier in enumerate(expected):
            (frame,) = np.flatnonzero((shards.frame_episode == episode) & (shards.frame_step == earlier))
            with torch.no_grad():
                vision = batches.builder.encode_images(shards.images(np.array([frame])))[0]
            for camera in range(2):
                mean, maximum = vision[camera].mean(0), vision[camera].max(0).values
                torch.testing.assert_close(past.views[row, read, camera], mean, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(past.views[row, read, 2 + camera], maximum, rtol=1e-4, atol=1e-5)
            state = joint_positions(int(episode), earlier).astype(np.float64)
            normalised = 2 * (state - quantiles.q01) / (quantiles.q99.astype(np.float64) - quantiles.q01) - 1
            np.testing.assert_allclose(past.states[row, read].numpy(), normalised, rtol=0, atol=1e-5)
            assert torch.equal(past.text[row, read], batches.text[shards.window_task[window]])


def test_an_episodes_first_decisions_have_no_past(prepared):
    batches = prepared.material()
    past = batches.past(np.flatnonzero(batches.shards.window_step == 0)[:3])
    assert past.views.shape[1] == 0 and past.reads.tolist() == [0, 0, 0]


def test_excluded_joints_are_not_scored(own):
    material = own.material()
    assert material.scored_joints().all()
    material.shards.meta["exclude_joints"] = ["wrist_roll.pos"]
    assert material.scored_joints().tolist() == [True] * 4 + [False, True]
