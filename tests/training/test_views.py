"""Altered training images: small, repeatable, and addressed by frame and number alone."""

import numpy as np
import pytest
import torch

from sigma.training.views import altered

SETTINGS = {"shift": 2, "light": 0.1, "seed": 0}


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 2, 3, 16, 16), dtype=np.uint8))


def test_view_zero_is_the_image_itself(images):
    assert torch.equal(altered(images, range(4), [0] * 4, **SETTINGS), images)


def test_a_view_depends_on_its_frame_and_number_not_on_its_batch(images):
    whole = altered(images, [10, 11, 12, 13], [1, 2, 3, 0], **SETTINGS)
    for row, (frame, number) in enumerate([(10, 1), (11, 2), (12, 3), (13, 0)]):
        alone = altered(images[row : row + 1], [frame], [number], **SETTINGS)
        assert torch.equal(whole[row], alone[0])
    again = altered(images[:1], [11], [1], **SETTINGS)
    assert not torch.equal(again[0], whole[0])
    assert not torch.equal(altered(images[:1], [10], [1], **SETTINGS | {"seed": 1})[0], whole[0])


def test_a_shift_moves_the_picture_by_whole_pixels_and_repeats_edges(images):
    image = images[:1]
    found = set()
    for number in range(1, 60):
        moved = altered(image, [0], [number], shift=1, light=0.0, seed=0)[0, 0]
        padded = torch.nn.functional.pad(image[0, 0].float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
        here = [
            (down, right)
            for down in range(3)
            for right in range(3)
            if torch.equal(padded[:, down : down + 16, right : right + 16], moved)
        ]
        assert len(here) == 1
        found.add(here[0])
    assert len(found) == 9


def test_light_changes_every_pixel_of_a_camera_alike_and_within_its_bound(images):
    grey = torch.full((1, 2, 3, 8, 8), 127, dtype=torch.uint8)
    seen = []
    for number in range(1, 40):
        lit = altered(grey, [0], [number], shift=0, light=0.1, seed=0)[0].float()
        assert all(len(camera.unique()) == 1 for camera in lit)
        assert (lit - 127).abs().max() <= 26
        seen.append(lit[:, 0, 0, 0])
    seen = torch.stack(seen)
    assert seen.min() < 115 and seen.max() > 139 and not torch.equal(seen[:, 0], seen[:, 1])


def test_no_shift_and_no_light_change_nothing(images):
    assert torch.equal(altered(images, range(4), [1, 2, 3, 4], shift=0, light=0.0, seed=0), images)
