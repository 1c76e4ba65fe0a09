"""Where and with what figures are measured, and how much of the machine other programs take meanwhile."""

import os
import platform
import time
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from sigma.studies.benchmark.settings import BenchmarkParameters

PACKAGES = ("torch", "lerobot", "av", "torchcodec", "numpy", "dvc", "typer")
# Linux counts guests' time in user and nice as well.
_NOT_BUSY = ("idle", "iowait", "guest", "guest_nice")


def _processor() -> str:
    """The processor's name as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def describe(settings: BenchmarkParameters) -> dict[str, Any]:
    """Processor, cores, versions, and how often and with how many threads and processes each side ran."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "workers": settings.workers,
        "repetitions": settings.repetitions,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES if find_spec(name)},
    }


def _all_seconds() -> float:
    """Processor seconds of all programs since the machine started."""
    return sum(seconds for name, seconds in psutil.cpu_times()._asdict().items() if name not in _NOT_BUSY)


def _own_seconds() -> float:
    """Processor seconds of this process and of its children, ended ones (and theirs) included."""
    total = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += sum(child.cpu_times()[:4])
    return total


class OtherPrograms:
    """Counts the cores that other programs have busy, from its construction on."""

    def __init__(self) -> None:
        self._started, self._seconds = time.perf_counter(), _all_seconds() - _own_seconds()

    def cores(self) -> float:
        """The average until now; 0 on a machine that does nothing else."""
        seconds = _all_seconds() - _own_seconds() - self._seconds
        return max(0.0, seconds / (time.perf_counter() - self._started))
