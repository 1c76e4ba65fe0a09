"""The extra that records and plays episodes."""

from collections.abc import Iterator
from contextlib import contextmanager

from sigma.shared.errors import SigmaError

_MODULES = ("mujoco", "so101_nexus", "gymnasium")


@contextmanager
def simulator_needed(command: str) -> Iterator[None]:
    """Around imports of the simulator: raises :class:`SigmaError` where the extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _MODULES:
            raise
        raise SigmaError(f"{command}: {error.name} is not installed; install the extra 'simulation'") from None
