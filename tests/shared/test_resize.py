import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma.shared.resize import to_resolution


def random_images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@settings(max_examples=40, deadline=None)
@given(st.integers(17, 90), st.integers(17, 90), st.sampled_from([32, 48, 96]))
def test_agrees_with_lerobots_resize(height, width, size):
    from lerobot.policies.common.vla_utils import resize_with_pad_torch

    images = random_images(2, 3, height, width)
    expected = images if (height, width) == (size, size) else None
    if expected is None:
        expected = (resize_with_pad_torch(images.float() / 255, size, size) * 255).round().to(torch.uint8)
    assert torch.equal(to_resolution(images, size), expected)


def test_images_of_the_right_size_are_untouched():
    images = random_images(2, 2, 3, 64, 64)
    assert to_resolution(images, 64) is images


def test_leading_dimensions_and_batching_change_nothing():
    images = random_images(3, 2, 3, 48, 64)
    whole = to_resolution(images, 96)
    assert whole.shape == (3, 2, 3, 96, 96)
    assert torch.equal(whole[1, 1], to_resolution(images[1, 1], 96))
    channels_last = images[0].contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole[0], to_resolution(channels_last, 96))


def test_aspect_is_kept_between_black_borders():
    resized = to_resolution(torch.full((3, 30, 60), 200, dtype=torch.uint8), 60)
    assert (resized[:, 15:45] == 200).all()
    assert (resized[:, :15] == 0).all() and (resized[:, 45:] == 0).all()


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_other_layouts_are_refused(images):
    with pytest.raises(ValueError, match="uint8 images"):
        to_resolution(images, 4)
