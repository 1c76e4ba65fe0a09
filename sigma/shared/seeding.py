"""Random numbers seeded by what they are used for, so that batching and order cannot change them."""

import hashlib
import operator

import numpy as np

Key = int | str


def seed_from(*keys: Key) -> int:
    """A 64-bit seed that depends on every key and on their order, the same on every machine.

    Equal whole numbers of different types (``int``, ``numpy.int64``) are one key. A key that is neither a whole number
    nor text raises :class:`TypeError`.
    """
    words = [f"str:{key}" if isinstance(key, str) else f"int:{operator.index(key)}" for key in keys]
    digest = hashlib.sha256("\x1f".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def generator(*keys: Key) -> np.random.Generator:
    """A new NumPy generator, seeded by the keys, e.g. ``generator(seed, "split")``."""
    return np.random.Generator(np.random.PCG64(seed_from(*keys)))


def normal(shape: tuple[int, ...], *keys: Key) -> np.ndarray:
    """Standard normal float32 numbers of ``shape``, seeded by the keys."""
    return generator(*keys).standard_normal(shape, dtype=np.float32)
