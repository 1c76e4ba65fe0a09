"""Where and with what figures were measured."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sigma.studies.benchmark.settings import BenchmarkParameters

PACKAGES = ("torch", "lerobot", "av", "torchcodec", "numpy", "dvc", "typer")


def _processor() -> str:
    """The processor's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe(settings: BenchmarkParameters) -> dict[str, Any]:
    """Processor, cores, versions, and how often and with how many threads and processes each side ran."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "workers": settings.workers,
        "repetitions": settings.repetitions,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }
