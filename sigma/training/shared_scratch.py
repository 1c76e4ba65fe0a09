"""The training state of several processes: the first one locks, reads and writes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sigma.compute.processes import broadcast_first, rank
from sigma.training.state import Scratch


class SharedScratch(Scratch):
    """A :class:`Scratch` whose content all processes of a run know and only the first one alters."""

    @classmethod
    @contextmanager
    def open(cls, key: str) -> Iterator["SharedScratch"]:
        """As :meth:`Scratch.open` in the first process; the others have no folder of their own."""
        if rank():
            yield cls(Path())
            return
        with super().open(key) as scratch:
            yield scratch

    def load(self) -> dict[str, Any] | None:
        return broadcast_first(super().load)

    def kept(self, key: str) -> dict[str, Any] | None:
        return broadcast_first(partial(super().kept, key))

    def save(self, state: dict[str, Any]) -> None:
        if not rank():
            super().save(state)

    def keep(self, key: str, state: dict[str, Any]) -> None:
        if not rank():
            super().keep(key, state)

    def clear(self) -> None:
        if not rank():
            super().clear()
