"""One figure in a fresh process: ``python -m sigma.studies.benchmark.run NAME PARAMS OUTPUT``.

A process of its own has the asked-for kernel threads from its first import, no memory or threads of another figure, and
loader processes that start as in a training.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json
from sigma.studies.benchmark.catalogue import CATALOGUE
from sigma.studies.benchmark.machine import OtherPrograms
from sigma.studies.benchmark.settings import BenchmarkParameters, read_benchmark
from sigma.studies.benchmark.subprocesses import environment, finish, last_line

if TYPE_CHECKING:
    from sigma.studies.benchmark.project import Project

PREFIX = "sigma: error: "


def in_fresh_process(name: str, params: Path, settings: BenchmarkParameters) -> dict[str, Any]:
    """The record of a figure of the project in the current folder; raises :class:`SigmaError` where it failed."""
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as folder:
        output = Path(folder) / "record.json"
        command = (sys.executable, "-m", "sigma.studies.benchmark.run", name, str(params), str(output))
        ended = finish(command, Path(), environment(settings.threads))
        if ended.returncode != 0:
            reason = last_line(ended.stderr or ended.stdout).removeprefix(PREFIX).removeprefix("benchmark: ")
            raise SigmaError(f"benchmark: {name}: {reason.removeprefix(f'{name}: ')}")
        return read_json(output)


def load_project(root: Path, params: Path) -> "Project":
    """The project under ``root`` with the benchmark's threads and processes instead of its own ``machine``."""
    from sigma.parameters import read_parameters
    from sigma.studies.benchmark.project import Project

    settings, parameters = read_benchmark(params), read_parameters(root / "params.yaml")
    local = {"backend": "local", "address": None, "processes": 1}
    threads = {"threads": settings.threads, "workers": settings.workers}
    machine = parameters.machine.model_copy(update=local | threads)
    return Project(root, parameters.model_copy(update={"machine": machine}), settings)


def record_of(name: str, project: "Project") -> dict[str, Any]:
    """Measure a figure in this process; ``other_programs`` is how many cores other programs had busy meanwhile."""
    from sigma.studies.benchmark.measure import NotMeasured
    from sigma.studies.benchmark.record import build

    figure, others = CATALOGUE[name], OtherPrograms()
    try:
        measured = import_module(f"sigma.studies.benchmark.time_{figure.part}").FIGURES[name](project)
    except NotMeasured as reason:
        return {"part": figure.part, "title": figure.title, "peer": figure.peer, "not_measured": str(reason)}
    return build(figure, measured) | {"other_programs": round(others.cores(), 2)}


def main() -> None:
    name, params, output = sys.argv[1:]
    try:
        write_json(Path(output), record_of(name, load_project(Path(), Path(params))))
    except SigmaError as error:
        print(f"{PREFIX}{' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
