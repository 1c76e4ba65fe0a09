"""The controller gives what LeRobot's own processors and policy give, and each robot's noise is its own."""

import dataclasses

import numpy as np
import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors

from sigma.policy.control.controller import BaseController
from sigma.policy.pi05.inputs import Normalisation
from sigma.shared.errors import SigmaError
from sigma.shared.quantiles import Quantiles
from sigma.shared.seeding import normal
from tests.bases import ACTION_DIM, CAMERAS, STATE_DIM, load_tiny_base


@pytest.fixture
def base(tmp_path):
    return load_tiny_base(tmp_path / "base")


def observations(count: int) -> list[dict]:
    draw = np.random.default_rng(count)
    return [
        {
            "images": {name: draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for name in ("up", "wrist")},
            "state": draw.uniform(-40, 40, STATE_DIM).astype(np.float32),
            "task": ["lift the cube", "push the cube"][index % 2],
        }
        for index in range(count)
    ]


def through_lerobot(base, observation, noise):
    before, after = make_pre_post_processors(base.policy.config, pretrained_path=base.reference["source"])
    images = {
        camera: torch.from_numpy(observation["images"][camera.rsplit(".", 1)[-1]]).permute(2, 0, 1).float() / 255
        for camera in CAMERAS
    }
    raw = {**images, "observation.state": torch.from_numpy(observation["state"]), "task": observation["task"]}
    chunk = base.policy.predict_action_chunk(before(raw), noise=torch.from_numpy(noise)[None])
    return after(chunk)[0].numpy()


def test_actions_equal_lerobots_processors_and_policy_to_the_bit(base):
    controller = BaseController(base, n_action_steps=8, decoding="sample", seed=3)
    for index, observation in enumerate(observations(3)):
        controller.reset([index])
        noise = normal((base.chunk_size, ACTION_DIM), 3, "base", "live", index, 0, 0)
        found = controller.act([observation], [index])
        np.testing.assert_array_equal(found[0], through_lerobot(base, observation, noise))


def test_robots_in_a_batch_act_as_if_alone(base):
    views = observations(3)
    together, alone = (BaseController(base, n_action_steps=4, decoding="sample") for _ in range(2))
    together.reset([0, 1, 2])
    alone.reset([0, 1, 2])
    for _ in range(2):
        batch = together.act(views, [0, 1, 2])
        for index, view in enumerate(views):
            np.testing.assert_allclose(batch[index], alone.act([view], [index])[0], rtol=1e-4, atol=1e-3)


def test_a_new_episode_repeats_its_noise_and_a_later_decision_has_other_noise(base):
    view = observations(1)
    controller = BaseController(base, n_action_steps=4, decoding="sample")
    controller.reset([0])
    first, second = controller.act(view, [0]), controller.act(view, [0])
    controller.reset([0])
    np.testing.assert_array_equal(controller.act(view, [0]), first)
    assert not np.array_equal(first, second)


def test_zero_noise_is_integrated_from_zeros(base):
    view = observations(1)
    found = BaseController(base, n_action_steps=16, decoding="zero_noise").act(view, [0])
    zero = np.zeros((base.chunk_size, ACTION_DIM), np.float32)
    np.testing.assert_array_equal(found[0], through_lerobot(base, view[0], zero))


def test_samples_are_averaged(base):
    view = observations(1)
    found = BaseController(base, n_action_steps=16, decoding="mean", samples=3, seed=5).act(view, [0])[0]
    draws = [normal((base.chunk_size, ACTION_DIM), 5, "base", "live", 0, 0, draw) for draw in range(3)]
    expected = np.mean([through_lerobot(base, view[0], noise) for noise in draws], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_a_missing_camera_is_named(base):
    view = observations(1)
    del view[0]["images"]["wrist"]
    with pytest.raises(SigmaError, match=r"observation\.images\.wrist.*gives up"):
        BaseController(base, n_action_steps=4).act(view, [0])


@pytest.mark.parametrize("steps", [0, 17])
def test_more_steps_than_the_chunk_holds_are_refused(base, steps):
    with pytest.raises(SigmaError, match=rf"found {steps}; legal: 1 to the chunk size 16"):
        BaseController(base, n_action_steps=steps)


def test_later_noise_is_addressed_by_the_control_step(base):
    view = observations(1)
    controller = BaseController(base, n_action_steps=4, decoding="sample", seed=3)
    controller.reset([0])
    controller.act(view, [0])
    noise = normal((base.chunk_size, ACTION_DIM), 3, "base", "live", 0, 4, 0)
    np.testing.assert_array_equal(controller.act(view, [0])[0], through_lerobot(base, view[0], noise))


def test_given_statistics_take_the_place_of_the_bases_own(base):
    view = observations(1)
    own = Normalisation(base.statistics["observation.state"], base.statistics["action"])
    wide = Quantiles(own.action.q01 * 2, own.action.q99 * 2)
    plain, other = (
        BaseController(base, n_action_steps=4, normalisation=one).act(view, [0])
        for one in (own, Normalisation(own.state, wide))
    )
    np.testing.assert_allclose(other, 2 * plain, rtol=1e-4, atol=1e-3)
    without = dataclasses.replace(base, statistics=None)
    with pytest.raises(SigmaError, match="without statistics"):
        BaseController(without, n_action_steps=4)
    np.testing.assert_array_equal(BaseController(without, n_action_steps=4, normalisation=own).act(view, [0]), plain)
