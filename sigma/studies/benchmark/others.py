"""How much of the machine other programs took while a figure was measured: says how far a figure is to be trusted."""

import os
import time
from dataclasses import dataclass

_IDLE = ("idle", "iowait")
_TWICE = ("guest", "guest_nice")  # Linux counts these in user and nice already


def _busy() -> float:
    """Processor seconds that all programs together have taken since the machine began, those of a host included."""
    import psutil

    times = psutil.cpu_times()._asdict()
    return sum(value for name, value in times.items() if name not in (*_IDLE, *_TWICE))


def _own() -> float:
    """Processor seconds of this process and of its children, ended ones (and theirs) included."""
    import psutil

    spent = os.times()
    total = spent.user + spent.system + spent.children_user + spent.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass
class Others:
    """Counts from its making on."""

    def __post_init__(self) -> None:
        self._since, self._busy_then, self._own_then = time.perf_counter(), _busy(), _own()

    def cores(self) -> float:
        """Cores that other programs had busy, on average until now; 0 on a machine that does nothing else."""
        passed = time.perf_counter() - self._since
        return max(0.0, (_busy() - self._busy_then - _own() + self._own_then) / passed)
