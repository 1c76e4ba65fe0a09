"""What one waits for before any work: the command line, DVC with nothing to do, an experiment on the adapter."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.kept_record import Measured, NotMeasured
from sigma.studies.benchmark.measure import alternate, seconds_each
from sigma.studies.benchmark.project import Project
from sigma.studies.benchmark.several_processes import environment, run, seconds_of

DVC = (sys.executable, "-m", "dvc")
SIGMA = (sys.executable, "-m", "sigma")
RUNS = "Running stage"


def command_line(project: Project) -> Measured:
    """Seconds of ``sigma --help``, and of the import of the library that it is made of."""
    env = environment(project.settings.threads)
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:
        folder = Path(name)
        sides = {
            "own": lambda: seconds_of((*SIGMA, "--help"), folder, env),
            "peer": lambda: seconds_of((sys.executable, "-c", "import typer"), folder, env),
        }
        values = alternate(sides, project.effort)
        bare = seconds_of((sys.executable, "-c", "pass"), folder, env)
    return Measured(values["own"], values["peer"], {"split": {"python alone": bare}})


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def project_copy(root: Path) -> Iterator[Path]:
    """A copy of a finished project with a repository and a cache of its own, which is removed afterwards.

    Files of the cache are linked; DVC never writes into one. Raises :class:`SigmaError` where the pipeline is not
    finished: then there is nothing to do only after the work.
    """
    env = environment(own_code=False)
    listed = run(("git", "ls-files", "-z"), root, env).split("\0")
    cache = root.resolve() / run((*DVC, "cache", "dir"), root, env).splitlines()[0]
    if not cache.is_dir():
        raise SigmaError(f"{cache}: DVC's cache is empty; run `dvc repro`, or set benchmark.startup.pipeline: false")
    scratch = cache.parent / "tmp"  # beside the cache, so that links are possible
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sigma-benchmark-", dir=scratch) as name:
        folder, own_cache = Path(name) / "project", Path(name) / "cache"
        for file in filter(None, listed):
            if (root / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / file, folder / file)
        shutil.copytree(cache, own_cache, copy_function=_link)
        run(("git", "init", "-q"), folder, env)
        run(("git", "config", "user.email", "benchmark@localhost"), folder, env)
        run(("git", "config", "user.name", "benchmark"), folder, env)
        run(("git", "add", "-A"), folder, env)
        run(("git", "commit", "-q", "-m", "copy"), folder, env)
        run((*DVC, "config", "--local", "cache.dir", str(own_cache)), folder, env)
        if RUNS in run((*DVC, "repro", "--dry", "--allow-missing"), folder, env):
            raise SigmaError(
                f"{root.resolve()}: the pipeline is not finished; run `dvc repro`, or set "
                "benchmark.startup.pipeline: false"
            )
        run((*DVC, "checkout", "-q", "dvc.yaml"), folder, env)
        yield folder


def _asked_for(project: Project) -> None:
    if not project.settings.startup.pipeline:
        raise NotMeasured("benchmark.startup.pipeline is false")


def repro(project: Project) -> Measured:
    """Seconds of ``dvc repro`` that finds nothing to do, and of a DVC command that only opens the project."""
    env = environment(own_code=False)
    _asked_for(project)
    with project_copy(project.root) as folder:
        if RUNS in run((*DVC, "repro"), folder, env):
            raise SigmaError("benchmark: repro: a stage ran where there was nothing to do")
        sides = {
            "own": lambda: seconds_of((*DVC, "repro"), folder, env),
            "peer": lambda: seconds_of((*DVC, "root"), folder, env),
        }
        values = alternate(sides, project.effort)
        read, files, lines = _reading(folder)
    opened = median(values["peer"])
    parts = {"open DVC": opened, "read dvc.yaml and dvc.lock": read, "compare": median(values["own"]) - opened - read}
    return Measured(values["own"], values["peer"], {"split": parts, "files": files, "lines": lines})


def _reading(folder: Path) -> tuple[float, int, int]:
    """Seconds of reading every dvc.yaml and dvc.lock of the project, as DVC must, by the library that it reads them
    with; their number, and the lines in them."""
    from ruamel.yaml import YAML

    texts = [file.read_text(encoding="utf-8") for name in ("dvc.yaml", "dvc.lock") for file in folder.rglob(name)]
    seconds = seconds_each(lambda: [YAML(typ="safe").load(text) for text in texts], 0)
    return seconds, len(texts), sum(text.count("\n") for text in texts)


def adapter_experiment(project: Project) -> Measured:
    """Seconds of ``dvc exp run --temp`` with another threshold each time, and of the report by itself."""
    env, threshold = environment(own_code=False), float(project.parameters.adapter.threshold)
    turn = 0

    def change() -> tuple[str, ...]:
        """A value that no former run had: the run cache would give its results back."""
        nonlocal turn
        turn += 1
        return "--temp", "-n", f"benchmark-{turn}", "-S", f"adapter.threshold={threshold + turn / 1000:.3f}"

    _asked_for(project)
    with project_copy(project.root) as folder:
        ran = run((*DVC, "exp", "run", *change()), folder, env).count(RUNS)
        if ran != 1:
            raise SigmaError(f"benchmark: adapter_experiment: {ran} stages ran; the report alone should have")
        sides = {
            "own": lambda: seconds_of((*DVC, "exp", "run", *change()), folder, env),
            "peer": lambda: seconds_of((*SIGMA, "report"), folder, env),
        }
        values = alternate(sides, project.effort)
    report = median(values["peer"])
    parts = {"the report": report, "DVC: copy, graph, commit": median(values["own"]) - report}
    return Measured(values["own"], values["peer"], {"split": parts})


FIGURES: dict[str, Callable[[Project], Measured]] = {
    "help": command_line,
    "repro": repro,
    "adapter_experiment": adapter_experiment,
}
