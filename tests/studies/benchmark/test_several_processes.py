"""Commands in processes of their own: their memory, their environment, and what is told where they fail."""

import os
import sys

import pytest

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.several_processes import environment, last_line, run, seconds_of, usage_of

PYTHON = sys.executable


def test_peak_memory_counts_children_and_short_peaks(tmp_path):
    child = "import time\nblock = bytearray(80_000_000)\ndel block\ntime.sleep(0.5)"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    bare = usage_of((PYTHON, "-c", "import time; time.sleep(0.5)"), tmp_path, environment())
    found = usage_of((PYTHON, "-c", parent), tmp_path, environment())
    assert found.peak - bare.peak > 76, "MiB of the block, which was gone after a moment"
    assert found.first < found.peak - 76 and found.seconds >= 0.5


def test_a_command_that_fails_is_told_by_its_last_line(tmp_path):
    for call in (run, usage_of, seconds_of):
        with pytest.raises(SigmaError, match=r"failed in .*: ValueError: the end"):
            call((PYTHON, "-c", "raise ValueError('the end')"), tmp_path, environment())
    assert last_line("a\n b \n\n") == "b" and last_line("") == "no message"


def test_measured_processes_have_their_threads_and_nothing_of_a_running_dvc(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "elsewhere")
    monkeypatch.setenv("GIT_DIR", "elsewhere")
    found = environment(3)
    assert found["OMP_NUM_THREADS"] == "3" and not {"DVC_ROOT", "GIT_DIR"} & set(found)
    assert found["PATH"].startswith(os.path.dirname(PYTHON))
    assert "PYTHONPATH" not in environment(own_code=False)
    printed = run((PYTHON, "-c", "import sigma; print(sigma.__file__)"), tmp_path, environment())
    assert printed.strip() == str(__import__("sigma").__file__)
