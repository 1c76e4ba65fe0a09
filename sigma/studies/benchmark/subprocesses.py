"""Commands in processes of their own: their environment, their output, and their peak memory."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sigma.shared.errors import SigmaError

PACKAGE = Path(__file__).resolve().parents[3]  # the folder that holds the package
_FOREIGN = ("DVC_", "GIT_", "PYTHONPATH")  # set by a running `dvc repro`, and wrong for another project
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

# A small process between this one and a command: Linux counts the memory of the process that starts a command as the
# command's own.
_LAUNCHER = """
import resource, subprocess, sys
if status := subprocess.run(sys.argv[1:]).returncode:
    sys.exit(status)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


def environment(threads: int | None = None, *, own_code: bool = True) -> dict[str, str]:
    """Environment variables of a measured process: this interpreter first in PATH, and ``threads`` kernel threads.

    With ``own_code`` it imports this package wherever it works; without, the one of the project that it works in.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', '')}"
    variables |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if threads is not None:
        variables |= dict.fromkeys(_THREADS, str(threads))
    return variables | ({"PYTHONPATH": str(PACKAGE)} if own_code else {})


def run(command: Sequence[str], folder: Path, env: Mapping[str, str], launcher: Sequence[str] = ()) -> str:
    """What the command printed, errors last; raises :class:`SigmaError` with its last line where it fails.

    ``launcher`` is a command that starts it.
    """
    started = (*launcher, *command)
    ended = subprocess.run(started, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no message"]
        raise SigmaError(f"{' '.join(command[:6])}: failed in {folder}: {lines[-1].strip()}")
    return ended.stdout + ended.stderr


def peak_memory(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> float:
    """Run the command; returns the most resident memory, in MiB, that its process or one of its children had.

    The kernel records it, so that no short peak is missed.
    """
    launcher = (sys.executable, "-I", "-S", "-c", _LAUNCHER)
    peak = int(run(command, folder, env, launcher).splitlines()[-1])
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
