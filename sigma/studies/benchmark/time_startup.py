"""What one waits for before any work: the command line, DVC with nothing to do, an experiment on the adapter."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.measure import Measured, NotMeasured, Side, compare
from sigma.studies.benchmark.project import Project
from sigma.studies.benchmark.subprocesses import environment, run

DVC = (sys.executable, "-m", "dvc")
SIGMA = (sys.executable, "-m", "sigma")
RUNS = "Running stage"


def measure_help(project: Project) -> Measured:
    """``sigma --help``, and the import of the library that it is made of; ``modules`` counts what each imports."""
    env = environment(project.settings.threads)
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:

        def side(*arguments: str) -> Side:
            lines = run((sys.executable, "-X", "importtime", *arguments), Path(name), env).splitlines()
            modules = sum(line.startswith("import time:") for line in lines) - 1  # the first one is the header
            command = (sys.executable, *arguments)
            return Side(lambda: run(command, Path(name), env), details={"modules": modules})

        return compare(side("-m", "sigma", "--help"), side("-c", "import typer"), project.settings, once=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def project_copy(root: Path) -> Iterator[Path]:
    """A copy of a finished project with a repository and a cache of its own, which is removed afterwards.

    Files of the cache are linked, because DVC never writes into one. Raises :class:`NotMeasured` where the pipeline is
    not finished: DVC would do the pipeline's work instead of finding that there is none.
    """
    env = environment(own_code=False)
    tracked = run(("git", "ls-files", "-z"), root, env).split("\0")
    cache = root.resolve() / run((*DVC, "cache", "dir"), root, env).splitlines()[0]
    if not cache.is_dir():
        raise NotMeasured("DVC's cache is empty; run `dvc repro`")
    scratch = cache.parent / "tmp"  # beside the cache, so that links are possible
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-", dir=scratch) as name:
        folder, own_cache = Path(name) / "project", Path(name) / "cache"
        for file in filter(None, tracked):
            if (root / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / file, folder / file)
        shutil.copytree(cache, own_cache, copy_function=_link)
        author = ("config user.name benchmark", "config user.email benchmark@localhost")  # of an experiment's commits
        for command in ("init -q", *author, "add -A", "commit -q -m copy"):
            run(("git", *command.split()), folder, env)
        run((*DVC, "config", "--local", "cache.dir", str(own_cache)), folder, env)
        if RUNS in run((*DVC, "repro", "--dry", "--allow-missing"), folder, env):
            raise NotMeasured("the pipeline is not finished; run `dvc repro`")
        run((*DVC, "checkout", "-q", "dvc.yaml"), folder, env)
        yield folder


def _compare_commands(
    project: Project, own: Callable[[], Sequence[str]], peer: Sequence[str], *, stages: int
) -> Measured:
    """Time DVC's command against another one, in a copy of the project, after a run in which ``stages`` stages ran."""
    env = environment(own_code=False)
    with project_copy(project.root) as folder:
        ran = run(command := own(), folder, env).count(RUNS)
        if ran != stages:
            raise SigmaError(f"benchmark: {' '.join(command[2:5])}: {ran} stages ran instead of {stages}")
        sides = Side(lambda: run(own(), folder, env)), Side(lambda: run(peer, folder, env))
        return compare(*sides, project.settings, once=True)


def measure_repro(project: Project) -> Measured:
    """``dvc repro`` that finds nothing to do, and a DVC command that only opens the project."""
    return _compare_commands(project, lambda: (*DVC, "repro"), (*DVC, "root"), stages=0)


def measure_adapter_experiment(project: Project) -> Measured:
    """``dvc exp run --temp`` with another false-alarm rate each time, and the report by itself."""
    rate = float(project.parameters.adapter.false_alarms)
    numbers = count(1)

    def experiment() -> tuple[str, ...]:
        # A value that no former run had, because DVC's run cache would give that run's results back.
        number = next(numbers)
        change = f"adapter.false_alarms={rate + number / 1000:.3f}"
        return *DVC, "exp", "run", "--temp", "-n", f"benchmark-{number}", "-S", change

    return _compare_commands(project, experiment, (*SIGMA, "report"), stages=1)
