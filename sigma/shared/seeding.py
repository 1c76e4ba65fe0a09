"""Random numbers addressed by what they are for, so that batching and order cannot change them."""

import hashlib
import operator

import numpy as np

Key = int | str


def seed_from(*keys: Key) -> int:
    """A 64-bit seed that depends on every key and on their order, equal on every machine.

    A whole number of any type is the same key; a key that is neither a whole number nor text raises :class:`TypeError`.
    """
    words = [f"str:{key}" if isinstance(key, str) else f"int:{operator.index(key)}" for key in keys]
    digest = hashlib.sha256("\x1f".join(words).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def generator(*keys: Key) -> np.random.Generator:
    """A fresh NumPy generator for this address, e.g. ``generator(seed, "split")``."""
    return np.random.Generator(np.random.PCG64(seed_from(*keys)))


def normal(shape: tuple[int, ...], *keys: Key) -> np.ndarray:
    """Standard normal float32 numbers of ``shape`` for this address."""
    return generator(*keys).standard_normal(shape, dtype=np.float32)
