"""One figure in a fresh process.

A process of its own has the asked-for kernel threads from its first import, no memory or threads of another figure, and
loader processes that start as in a training.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.catalogue import CATALOGUE
from sigma.studies.benchmark.machine import OtherPrograms
from sigma.studies.benchmark.settings import BenchmarkParameters
from sigma.studies.benchmark.subprocesses import environment

if TYPE_CHECKING:
    from sigma.studies.benchmark.project import Project


def in_fresh_process(name: str, settings: BenchmarkParameters) -> dict[str, Any]:
    """The record of a figure of the project in the current folder; raises :class:`SigmaError` where it failed."""
    try:
        # A spawned process imports everything anew; a forked one would have this process's libraries.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            return executor.submit(_measure, name, settings).result()
    except SigmaError as error:
        raise SigmaError(f"benchmark: {name}: {error}") from None
    except BrokenProcessPool:
        raise SigmaError(f"benchmark: {name}: its process was killed, often for want of memory") from None


def _measure(name: str, settings: BenchmarkParameters) -> dict[str, Any]:
    """In the fresh process: measure with the benchmark's threads and processes instead of the project's ``machine``."""
    os.environ.update(environment(settings.threads))  # before the libraries are imported, which read it
    from sigma.parameters import read_parameters
    from sigma.studies.benchmark.project import Project

    parameters = read_parameters()
    local = {"backend": "local", "address": None, "processes": 1}
    counts = {"threads": settings.threads, "workers": settings.workers}
    machine = parameters.machine.model_copy(update=local | counts)
    return record_of(name, Project(Path(), parameters.model_copy(update={"machine": machine}), settings))


def record_of(name: str, project: "Project") -> dict[str, Any]:
    """Measure a figure in this process, by ``measure_NAME`` of the module ``time_PART``.

    ``other_programs`` is how many cores other programs had busy meanwhile.
    """
    from sigma.studies.benchmark.measure import NotMeasured
    from sigma.studies.benchmark.record import build

    figure, others = CATALOGUE[name], OtherPrograms()
    module = import_module(f"sigma.studies.benchmark.time_{figure.part}")
    try:
        measured = getattr(module, f"measure_{name}")(project)
    except NotMeasured as reason:
        return {"part": figure.part, "title": figure.title, "peer": figure.peer, "not_measured": str(reason)}
    return build(figure, measured) | {"other_programs": round(others.cores(), 2)}
