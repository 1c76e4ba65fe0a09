"""Altered training images: small, repeatable, and addressed by frame and number alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sigma.training.augmentation import Augmentation

VIEWS = Augmentation(count=3, shift=2, light=0.1, seed=0)


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 2, 3, 16, 16), dtype=np.uint8))


def test_view_zero_is_the_image_itself(images):
    assert torch.equal(VIEWS.apply(images, range(4), [0] * 4), images)


def test_a_view_depends_on_its_frame_and_number_not_on_its_batch(images):
    whole = VIEWS.apply(images, [10, 11, 12, 13], [1, 2, 3, 0])
    for row, (frame, number) in enumerate([(10, 1), (11, 2), (12, 3), (13, 0)]):
        alone = VIEWS.apply(images[row : row + 1], [frame], [number])
        assert torch.equal(whole[row], alone[0])
    again = VIEWS.apply(images[:1], [11], [1])
    assert not torch.equal(again[0], whole[0])
    assert not torch.equal(replace(VIEWS, seed=1).apply(images[:1], [10], [1])[0], whole[0])


def test_a_shift_moves_the_picture_by_whole_pixels_and_repeats_edges(images):
    image = images[:1]
    found = set()
    for number in range(1, 60):
        moved = Augmentation(shift=1).apply(image, [0], [number])[0, 0]
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
        lit = Augmentation(light=0.1).apply(grey, [0], [number])[0].float()
        assert all(len(camera.unique()) == 1 for camera in lit)
        assert (lit - 127).abs().max() <= 26
        seen.append(lit[:, 0, 0, 0])
    seen = torch.stack(seen)
    assert seen.min() < 115 and seen.max() > 139 and not torch.equal(seen[:, 0], seen[:, 1])


def test_no_shift_and_no_light_change_nothing(images):
    assert torch.equal(Augmentation().apply(images, range(4), [1, 2, 3, 4]), images)


def test_every_view_is_drawn_and_micro_batches_are_slices_of_their_step():
    whole = VIEWS.draw_numbers(5, slice(None), 400)
    assert set(whole.tolist()) == {0, 1, 2, 3} and np.bincount(whole).min() > 60
    assert np.array_equal(VIEWS.draw_numbers(5, slice(8, 16), 400), whole[8:16])
    assert not np.array_equal(VIEWS.draw_numbers(6, slice(None), 400), whole)
    assert not Augmentation().draw_numbers(5, slice(None), 400).any()
