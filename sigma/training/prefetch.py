"""Reading ahead: a thread reads the inputs of the next step while this one is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np


class Prefetcher[Value]:
    """Runs ``make``, a function of arrays alone, in a thread before its result is needed.

    A request never changes a result, only how soon it is there. A requested result that is not taken next is dropped.
    """

    def __init__(self, make: Callable[..., Value]):
        self.make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sigma-ahead")  # its thread starts with the first request
        self._pending: tuple[Any, Future[Value]] | None = None

    def request(self, *arrays: np.ndarray) -> None:
        """Begin to make the result of these arrays."""
        self._pending = (_key(arrays), self._pool.submit(self.make, *arrays))

    def take(self, *arrays: np.ndarray) -> Value:
        """The result of these arrays: that of the last request where it was for them, else made now."""
        pending, self._pending = self._pending, None
        if pending is not None and pending[0] == _key(arrays):
            return pending[1].result()
        return self.make(*arrays)


def _key(arrays: tuple[np.ndarray, ...]) -> tuple[Any, ...]:
    return tuple((array.dtype.str, array.shape, array.tobytes()) for array in arrays)
