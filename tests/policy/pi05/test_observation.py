"""What a decision may read: pools by camera and by role, and a past that is gathered by frame."""

import numpy as np
import torch

from sigma.policy.pi05.inputs import gather_history
from sigma.policy.pi05.observation import masked_mean, pool
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


def test_appended_tokens_count_as_state():
    values = torch.randn(2, 6 + 6 + 2, 5, generator=torch.Generator().manual_seed(0))
    pooled = pool(values, 2, 3, GROUPS)
    torch.testing.assert_close(pooled[0, 3], torch.stack([values[0, 10], values[0, 12], values[0, 13]]).mean(0))
    torch.testing.assert_close(pooled[:, :3], pool(values[:, :12], 2, 3, GROUPS)[:, :3])


def test_a_mean_over_nothing_is_zero():
    assert not masked_mean(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).any()


def test_history_holds_the_earlier_frames_in_order_and_nothing_where_there_was_none():
    pooled = torch.arange(6.0)[:, None, None].expand(6, 2, 3)
    history, present = gather_history(pooled, np.array([[1, 3, 5], [-1, 0, 4], [-1, -1, 2]]))
    assert history[:, :, 0, 0].tolist() == [[1, 3], [0, 0], [0, 0]]
    assert present.tolist() == [[True, True], [False, True], [False, False]]
    assert history.shape == (3, 2, 2, 3)
    alone, mask = gather_history(pooled, np.array([[4]]))
    assert alone.shape == (1, 0, 2, 3) and mask.shape == (1, 0)
