"""What is pooled of a prefix: one mean a camera, one over the instruction, one over the state; and of image tokens."""

import torch

from sigma.policy.pi05.observation import masked_mean, pool, pool_views
from sigma.policy.pi05.prompt import INSTRUCTION, OTHER, STATE

GROUPS = torch.tensor(
    [[OTHER, INSTRUCTION, INSTRUCTION, OTHER, STATE, OTHER], [INSTRUCTION, STATE, STATE, STATE, OTHER, OTHER]],
    dtype=torch.int8,
)


def test_a_prefix_is_pooled_by_camera_instruction_and_state():
    values = torch.randn(2, 2 * 3 + 6, 5, generator=torch.Generator().manual_seed(0))
    pooled = pool(values, 2, 3, GROUPS)
    assert pooled.shape == (2, 4, 5)
    text = values[:, 6:]
    for row, (instruction, state) in enumerate((([1, 2], [4]), ([0], [1, 2, 3]))):
        expected = [values[row, :3], values[row, 3:6], text[row, instruction], text[row, state]]
        torch.testing.assert_close(pooled[row], torch.stack([part.mean(0) for part in expected]))


def test_a_mean_over_nothing_is_zero():
    assert not masked_mean(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).any()


def test_image_tokens_are_pooled_to_a_mean_and_a_maximum_of_each_camera():
    vision = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    pooled = pool_views(vision)
    assert pooled.shape == (3, 4, 4)
    for camera in range(2):
        torch.testing.assert_close(pooled[:, camera], vision[:, camera].mean(1))
        torch.testing.assert_close(pooled[:, 2 + camera], vision[:, camera].max(1).values)
