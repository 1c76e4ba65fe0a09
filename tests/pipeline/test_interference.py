"""Two runs at once, a command that outlives its `dvc`, edits during a run, and experiments in copies of the project."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.pipeline.test_kills import lock, products, running, start, until, used
from tests.projects import change_parameters, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def module_project(clone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interference") / "project"
    shutil.copytree(clone, folder, symlinks=True)
    return folder


@pytest.fixture
def project(module_project) -> Iterator[Path]:
    """The finished pipeline, with an adapter setting that only `report` reads and that was never run."""
    yield module_project
    run(module_project, "git", "checkout", "-q", "--", ".")
    run(module_project, "dvc", "repro")


def set_temperature(folder: Path, value: float) -> None:
    change_parameters(folder, {"adapter": {"risk_temperature": value}})


def temperature(folder: Path) -> float:
    """What DVC recorded."""
    return lock(folder)["report"]["params"]["params.yaml"]["adapter"]["risk_temperature"]


def expected(folder: Path, value: float, place: Path) -> dict[str, str]:
    """What an undisturbed run of this temperature makes, in a copy of its own."""
    shutil.copytree(folder, place, symlinks=True, ignore=shutil.ignore_patterns("runs"))
    set_temperature(place, value)
    run(place, "dvc", "repro")
    return products(place)


def halted(folder: Path, log: Path) -> tuple[subprocess.Popen, psutil.Process]:
    """A `dvc repro` whose command `report` has begun, holds the project and then stands still."""
    held = folder / ".dvc/tmp/sigma-pipeline.lock"
    dvc = start(folder, log)
    until(lambda: dvc.poll() is not None or running(dvc))
    assert dvc.poll() is None, log.read_text()
    stage, command = running(dvc)
    assert stage == "report"
    until(lambda: held.is_file() and held.read_text() == f"{command.pid} report")
    begun = used(command)
    until(lambda: used(command) >= begun + 0.6)  # it has looked at its inputs, by its own time on a busy machine
    command.suspend()
    return dvc, command


def test_a_second_repro_says_who_is_at_work_and_leaves_the_first_alone(project, tmp_path):
    wanted = expected(project, 5.5, tmp_path / "alone")
    set_temperature(project, 5.5)
    dvc, command = halted(project, tmp_path / "first.log")
    output = run(project, "dvc", "repro", fails=True)
    assert "is busy, it is being blocked by" in output and str(dvc.pid) in output and "Traceback" not in output
    command.resume()
    assert dvc.wait() == 0, (tmp_path / "first.log").read_text()
    assert products(project) == wanted
    assert "Running stage" not in run(project, "dvc", "repro")


def test_a_command_that_outlives_its_dvc_is_not_joined_by_another(project, tmp_path):
    wanted, before = expected(project, 4.5, tmp_path / "alone"), lock(project)
    set_temperature(project, 7.5)
    dvc, command = halted(project, tmp_path / "first.log")
    dvc.kill()
    dvc.wait()
    set_temperature(project, 4.5)
    output = run(project, "dvc", "repro", fails=True)
    line = f"sigma: error: report: `sigma report` (process {command.pid}) still works in this project; wait until"
    assert output.count(line) == 1 and "Traceback" not in output
    command.resume()
    until(lambda: not psutil.pid_exists(command.pid) or command.status() == psutil.STATUS_ZOMBIE)
    assert lock(project) == before, "nothing of the orphan is recorded"
    run(project, "dvc", "repro")
    assert products(project) == wanted and temperature(project) == 4.5


@pytest.mark.parametrize("what", ["parameter", "source"])
def test_a_run_whose_inputs_were_edited_meanwhile_is_not_recorded(project, tmp_path, what):
    before = lock(project)
    set_temperature(project, 3.5)
    dvc, command = halted(project, tmp_path / "run.log")
    if what == "parameter":
        set_temperature(project, 2.5)
    else:
        with open(project / "sigma/report/provenance.py", "a") as file:
            file.write("# edited\n")
    command.resume()
    assert dvc.wait() != 0
    output = (tmp_path / "run.log").read_text()
    name = {"parameter": "params.yaml: adapter", "source": "sigma/report"}[what]
    assert output.count(f"sigma: error: report: {name} was edited while it ran") == 1 and "Traceback" not in output
    assert lock(project) == before
    run(project, "dvc", "repro")
    recorded = temperature(project)
    assert recorded == (2.5 if what == "parameter" else 3.5)
    assert products(project) == expected(project, recorded, tmp_path / "alone")


MARK = """

_unmarked = check_b


def check_b(*arguments):
    return _unmarked(*arguments) | {{"mark": {mark}}}
"""


def mark(folder: Path, number: int) -> None:
    """Let the code of `report` write this number into metrics/check_b.json."""
    run(folder, "git", "checkout", "-q", "--", "sigma/evaluation/checks.py")
    with open(folder / "sigma/evaluation/checks.py", "a") as file:
        file.write(MARK.format(mark=number))


def marked(folder: Path, revision: str | None = None) -> int:
    if revision is None:
        return json.loads((folder / "metrics/check_b.json").read_text()).get("mark", 0)
    return json.loads(run(folder, "git", "show", f"{revision}:metrics/check_b.json", printed=True)).get("mark", 0)


def revision(folder: Path, name: str) -> str:
    """The commit of an experiment."""
    refs = run(folder, "git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps", printed=True)
    return next(line.split()[0] for line in refs.splitlines() if line.endswith(f"/{name}"))


def test_an_experiment_in_a_copy_runs_the_copys_code(project):
    mark(project, 1)
    run(project, "dvc", "exp", "run", "--queue", "-n", "queued", "-S", "adapter.risk_temperature=6.5")
    mark(project, 2)
    run(project, "dvc", "exp", "run", "--temp", "-n", "temporary", "-S", "adapter.risk_temperature=6.25")
    assert marked(project, revision(project, "temporary")) == 2
    mark(project, 3)
    run(project, "dvc", "queue", "start", "-j", "1")
    until(lambda: "Success" in (status := run(project, "dvc", "queue", "status")) or "Failed" in status)
    assert "Failed" not in run(project, "dvc", "queue", "status")
    run(project, "dvc", "queue", "stop")
    assert marked(project, revision(project, "queued")) == 1, "not the code that was there when it started"
    assert marked(project) == 0
    run(project, "dvc", "repro")
    assert marked(project) == 3


def test_a_lock_file_that_was_cut_off_costs_no_result(project):
    """DVC writes dvc.lock in place: a kill in that moment leaves a part of it."""
    whole, wanted = (project / "dvc.lock").read_bytes(), products(project)
    refused = 0
    for share in (0.0, 0.2, 0.5, 0.9):
        (project / "dvc.lock").write_bytes(whole[: int(share * len(whole))])
        log = project.parent / "cut.log"
        if start(project, log).wait():
            assert "dvc.lock'" in log.read_text() and "Traceback" not in log.read_text()
            refused += 1
            (project / "dvc.lock").unlink()
            assert start(project, log).wait() == 0, log.read_text()
        assert "> python" not in log.read_text(), "every result comes from the run cache"
        assert products(project) == wanted
    assert refused
