"""What a robot sees becomes what shards hold: cameras by name, the shared resize, words that are known."""

import numpy as np
import pytest
import torch

from sigma.policy.control.robot_observation import check_words, live_observation, stack_images
from sigma.policy.pi05.description import ACTION, STATE
from sigma.policy.pi05.inputs import InputBuilder, Normalisation
from sigma.shared.errors import SigmaError
from sigma.shared.resize import to_resolution
from tests.bases import CAMERAS, STATE_DIM, load_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_tiny_base(tmp_path_factory.mktemp("live") / "base")


def views(count: int, size: tuple[int, int] = (40, 60)) -> list[dict]:
    draw = np.random.default_rng(count)
    return [
        {
            "images": {name: draw.integers(0, 256, (*size, 3), dtype=np.uint8) for name in ("wrist", "up")},
            "state": draw.uniform(-40, 40, STATE_DIM).astype(np.float32),
            "task": "lift the cube",
        }
        for _ in range(count)
    ]


def test_images_stand_in_the_policys_order_through_the_shards_resize():
    seen = views(2)
    stacked = stack_images(seen, CAMERAS, 32)
    assert stacked.shape == (2, 2, 3, 32, 32) and stacked.dtype == torch.uint8
    for row, view in enumerate(seen):
        for place, name in enumerate(("up", "wrist")):
            picture = torch.from_numpy(view["images"][name]).permute(2, 0, 1)
            torch.testing.assert_close(stacked[row, place], to_resolution(picture, 32), rtol=0, atol=0)


def test_full_camera_names_serve_as_well_and_a_missing_one_is_named():
    (short,) = views(1)
    full = short | {"images": {f"observation.images.{name}": image for name, image in short["images"].items()}}
    assert torch.equal(stack_images([short], CAMERAS, 32), stack_images([full], CAMERAS, 32))
    with pytest.raises(SigmaError, match=r"needs the camera observation\.images\.front; the robot gives up, wrist"):
        stack_images([short], ("observation.images.front",), 32)


def test_states_are_normalised_by_the_statistics_of_training(base):
    builder = InputBuilder(base, Normalisation(base.statistics[STATE], base.statistics[ACTION]))
    seen = views(3)
    observation = live_observation(builder, seen)
    normalised = base.statistics[STATE].normalise(np.stack([view["state"] for view in seen]))
    np.testing.assert_array_equal(observation.state.numpy(), normalised)


def test_the_trace_becomes_the_motion_and_a_short_one_stood_still_before(base):
    builder = InputBuilder(base, Normalisation(base.statistics[STATE], base.statistics[ACTION]))
    traces = [np.cumsum(np.full((count, STATE_DIM), 2.0, np.float32), axis=0) for count in (6, 2, 1)]
    seen = [view | {"state": trace[-1], "trace": trace} for view, trace in zip(views(3), traces, strict=True)]
    motion = live_observation(builder, seen, steps=3).motion.numpy()
    assert motion.shape == (3, 3, STATE_DIM)
    quantiles = base.statistics[STATE]
    unit = 2 * 2.0 / (quantiles.q99.astype(float) - quantiles.q01)
    for row, steps in enumerate(([-3, -2, -1], [-1, -1, -1], [0, 0, 0])):
        np.testing.assert_allclose(motion[row], np.array(steps)[:, None] * unit, rtol=0, atol=1e-5)
    assert live_observation(builder, seen).motion.shape == (3, 0, STATE_DIM)
    words = "the model reads the motion before a decision: give trace, states whose last one is the state"
    for trace in (None, traces[0][:0], traces[0][:-1]):
        with pytest.raises(SigmaError, match=words):
            live_observation(builder, [seen[0] | {"trace": trace}], steps=3)


def test_a_word_that_the_tokenizer_does_not_know_is_named(base):
    check_words(base.prompter, ["place the cube in the red box", "Put it, gently, over there"])
    with pytest.raises(SigmaError, match=r"'levitate the cube'.*'levitate'"):
        check_words(base.prompter, ["lift the cube", "levitate the cube"])
