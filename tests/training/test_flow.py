"""Flow matching on windows: noise by address, and LeRobot's own loss on the steps and joints that count."""

import numpy as np
import pytest
import torch

from sigma.policy.model.decision import AdaptedPass
from sigma.policy.pi05.observation import base_pass
from sigma.training.batches import WindowBatches
from sigma.training.flow import draw_noise_and_time, flow_losses, step_noise
from tests.bases import CAMERAS

DRAWS = 2


def lerobot_losses(batches: WindowBatches, rows: np.ndarray, noise: torch.Tensor, time: torch.Tensor) -> np.ndarray:
    """LeRobot's unreduced training loss (B, R, Tc, A) of these windows, by its joint forward, one draw at a time."""
    policy, shards = batches.base.policy, batches.shards
    images = shards.images(shards.window_frame[rows]).float() / 255
    observation, _ = batches.observation(rows)
    given = policy._preprocess_images({camera: images[:, view] for view, camera in enumerate(CAMERAS)})
    actions = torch.from_numpy(batches.builder.normalisation.action.normalise(shards.window_action[rows]))
    losses = [
        policy.model.forward(*given, observation.tokens, observation.mask, actions, noise[:, draw], time[:, draw])
        for draw in range(time.shape[1])
    ]
    return torch.stack(losses, dim=1).detach().numpy()


def draws_of(batches: WindowBatches, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return draw_noise_and_time(batches.base.policy.config, len(rows), DRAWS, "test", 0)


@torch.no_grad()
@pytest.mark.parametrize("excluded", [[], ["wrist_roll.pos"]])
def test_spans_are_lerobots_loss_over_valid_steps_and_scored_joints(prepared, excluded):
    batches = prepared.material()
    batches.shards.meta["exclude_joints"] = excluded
    joints = [name not in excluded for name in batches.shards.meta["joint_names"]]
    whole = batches.shards.window_valid.all(axis=1)
    rows = np.concatenate([np.flatnonzero(whole)[:2], np.flatnonzero(~whole)[:2]])
    valid = batches.shards.window_valid[rows]
    noise, time = draws_of(batches, rows)
    observation, _ = batches.observation(rows)
    passed = AdaptedPass(base_pass(batches.base.policy, observation).encoded, None, None)
    found = flow_losses(batches.base.policy, batches, passed, rows, noise, time)
    expected = lerobot_losses(batches, rows, noise, time)
    assert {name: tuple(losses.shape) for name, losses in found.items()} == dict.fromkeys(
        ("vector", "chunk", "trajectory"), (len(rows), DRAWS)
    )
    for span, steps in (("vector", 1), ("chunk", 4), ("trajectory", 16)):
        for row in range(len(rows)):
            counted = expected[row][:, :steps][:, valid[row, :steps]][..., joints]
            np.testing.assert_allclose(found[span][row].numpy(), counted.mean(axis=(1, 2)), rtol=1e-3, atol=1e-5)


def test_noise_and_time_are_functions_of_the_address_with_lerobots_law(prepared):
    config = prepared.base().policy.config
    noise, time = draw_noise_and_time(config, 4000, 2, 0, "flow", 3)
    again = draw_noise_and_time(config, 4000, 2, 0, "flow", 3)
    other = draw_noise_and_time(config, 4000, 2, 0, "flow", 4)
    assert torch.equal(noise, again[0]) and torch.equal(time, again[1])
    assert not torch.equal(noise, other[0]) and not torch.equal(time, other[1])
    assert abs(noise.mean().item()) < 0.01 and noise.std().item() == pytest.approx(1, abs=0.01)
    # openpi's Beta(1.5, 1), scaled to end just short of no noise at all.
    assert (time > 0).all() and (time <= 1).all()
    assert time.mean().item() == pytest.approx(0.999 * 0.6 + 0.001, abs=0.01)
    assert time.var().item() == pytest.approx(0.999**2 * 1.5 / (2.5**2 * 3.5), abs=0.005)


def test_a_part_of_a_step_has_its_slice_of_the_steps_draws(prepared):
    config, train = prepared.base().policy.config, prepared.configure().train
    whole = step_noise(config, train, 2, slice(0, 8), 8)
    for part in (slice(0, 3), slice(3, 8)):
        for found, expected in zip(step_noise(config, train, 2, part, 8), whole, strict=True):
            assert torch.equal(found, expected[part])
