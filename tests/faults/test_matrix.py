"""Every fault ends in one line that names its cause, or in a documented recovery; nothing half is left behind."""

import os
import re
import subprocess
import sys

import pytest

from tests.faults.case import PREFIX, PROGRESS, Fault, cut, fits, gone, project_of, run
from tests.faults.catalogue import GROUPS, README, table
from tests.faults.in_dataset import VIDEO
from tests.faults.in_hostile import RAN
from tests.faults.in_weights import HEADS
from tests.worlds import ROOT

# A full disk or a folder that cannot be written shows when a stage has done its whole work.
LONG = {"files"}


def named(group: str, fault: Fault):
    name = re.sub(r"\W+", "-", f"{group} {fault.command.split()[0]} {fault.what}".lower())
    return pytest.param(fault, id=name, marks=[pytest.mark.minutes] if group.lower() in LONG else [])


@pytest.mark.parametrize("fault", [named(group, fault) for group, faults in GROUPS.items() for fault in faults])
def test_a_fault_ends_as_the_table_says(fault: Fault, finished, tmp_path, capfd):
    with project_of(finished, tmp_path / "project") as project:
        os.environ[RAN] = str(tmp_path / "ran")
        fault.inject(project)
        end = run(project, fault.command, capfd)
    lines = [line for line in end.err.splitlines() if not PROGRESS.fullmatch(line)]
    if fault.recovers:
        assert end.status == 0, end.err
        assert not lines, end.err
        assert fits(fault.line, end.out.removesuffix("\n")), end.out
    else:
        assert end.status == 1 and end.out == ""
        assert len(lines) == 1 and lines[0].startswith(PREFIX), end.err
        assert fits(fault.line, lines[0].removeprefix(PREFIX)), f"{lines[0]}\nis not\n{fault.line}"
    assert not [name for name in end.changed if not any(name.startswith(part) for part in fault.writes)]
    assert not (tmp_path / "ran").exists(), "a payload was run"


@pytest.mark.processes
@pytest.mark.parametrize(("command", "inject"), [("audit", cut(VIDEO)), ("evaluate", gone(HEADS))])
def test_a_fault_in_a_process_of_its_own_is_one_line_too(finished, tmp_path, command, inject):
    """What a library says when it is imported, or by a warning, would stand beside the line."""
    with project_of(finished, tmp_path / "project") as project:
        inject(project)
        done = subprocess.run(
            [sys.executable, "-m", "sigma", command],
            cwd=project.root,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stderr.splitlines() if not PROGRESS.fullmatch(line)]
    assert done.returncode == 1 and done.stdout == ""
    assert len(lines) == 1 and lines[0].startswith(PREFIX), done.stderr


def test_the_table_is_that_of_the_faults():
    assert README.read_text(encoding="utf-8") == table(), "run python -m tests.faults"


def test_there_are_many_and_no_two_of_one_name():
    names = [(group, fault.what, fault.command) for group, faults in GROUPS.items() for fault in faults]
    assert len(names) >= 75 and len(set(names)) == len(names)
