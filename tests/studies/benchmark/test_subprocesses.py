"""Commands in processes of their own: their memory, their environment, and the message where they fail."""

import os
import sys

import pytest

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.subprocesses import environment, peak_memory, run

PYTHON = sys.executable


def test_peak_memory_is_that_of_the_largest_process_however_short(tmp_path):
    child = "block = bytearray(80_000_000)\ndel block"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    bare = peak_memory((PYTHON, "-c", "pass"), tmp_path, environment())
    assert 70 < peak_memory((PYTHON, "-c", parent), tmp_path, environment()) - bare < 100, "MiB of the child's block"


def test_a_command_that_fails_is_reported_by_its_last_line(tmp_path):
    for call in (run, peak_memory):
        with pytest.raises(SigmaError, match=r"failed in .*: ValueError: the end"):
            call((PYTHON, "-c", "raise ValueError('the end')"), tmp_path, environment())
        with pytest.raises(SigmaError, match=rf"^{PYTHON} -c exit.2.: failed in {tmp_path}: no message$"):
            call((PYTHON, "-c", "exit(2)"), tmp_path, environment())


def test_measured_processes_have_their_threads_and_nothing_of_a_running_dvc(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "elsewhere")
    monkeypatch.setenv("GIT_DIR", "elsewhere")
    variables = environment(3)
    assert variables["OMP_NUM_THREADS"] == "3" and not {"DVC_ROOT", "GIT_DIR"} & set(variables)
    assert variables["PATH"].startswith(os.path.dirname(PYTHON))
    assert "PYTHONPATH" not in environment(own_code=False)
    printed = run((PYTHON, "-c", "import sigma; print(sigma.__file__)"), tmp_path, environment())
    assert printed.strip() == str(__import__("sigma").__file__)
