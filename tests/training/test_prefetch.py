"""Reading ahead changes when something is read, and nothing else."""

import threading

import numpy as np
import pytest
import torch

from sigma.training.prefetch import Prefetcher
from tests.worlds import World


class Made:
    """What is made, in which thread and how often."""

    def __init__(self):
        self.threads = []

    def __call__(self, one: np.ndarray, other: np.ndarray) -> int:
        self.threads.append(threading.current_thread().name)
        if (one < 0).any():
            raise ValueError("negative")
        return int(one.sum() * other.sum())


ONE, TWO = np.array([1, 2]), np.array([3])


def test_what_was_requested_is_made_once_in_another_thread():
    ahead = Prefetcher(made := Made())
    ahead.request(ONE, TWO)
    assert ahead.take(ONE.copy(), TWO.copy()) == 9
    assert len(made.threads) == 1 and made.threads[0].startswith("sigma-ahead")
    assert ahead.take(ONE, TWO) == 9 and made.threads[1] == threading.current_thread().name, "a request is used up"


@pytest.mark.parametrize(
    "other", [(np.array([2, 1]), TWO), (ONE, np.array([4])), (ONE.astype(np.int32), TWO), (ONE[:, None], TWO)]
)
def test_what_was_not_requested_is_made_now(other):
    ahead = Prefetcher(made := Made())
    ahead.request(*other)
    assert ahead.take(ONE, TWO) == 9 and made.threads[-1] == threading.current_thread().name
    ahead.take(*other)
    assert len(made.threads) == 3, "what was requested and not taken next is forgotten"


def test_an_error_of_the_other_thread_is_raised_where_the_result_is_taken():
    ahead = Prefetcher(Made())
    ahead.request(-ONE, TWO)
    with pytest.raises(ValueError, match="negative"):
        ahead.take(-ONE, TWO)


@pytest.mark.parametrize("cached", [False, True])
def test_windows_that_were_read_ahead_are_the_same_to_the_bit(prepared: World, cached):
    trainer = prepared.trainer({"train": {"views": 2}})
    material, rows = trainer.batches, trainer.parts["train"][:5]
    numbers = np.array([0, 1, 2, 1, 0])
    if cached:
        material.cache_vision(rows, 4)
    plain = material.observation(rows, numbers=numbers)
    material.read_ahead(rows, numbers)
    ahead = material.observation(rows, numbers=numbers)
    for found, expected in zip(ahead, plain, strict=True):
        for name, value in vars(expected).items():
            assert getattr(found, name) is value is None or torch.equal(getattr(found, name), value), name
