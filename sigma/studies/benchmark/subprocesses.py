"""Commands in processes of their own: their environment, their output, and their peak memory."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sigma.shared.errors import SigmaError

PACKAGE = Path(__file__).resolve().parents[3]  # the folder that holds the package
_FOREIGN = ("DVC_", "GIT_")  # set by a running `dvc repro`, and wrong for another project
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

# A small process between this one and a command: Linux counts the memory of the process that starts a command as the
# command's own.
_LAUNCHER = """
import resource, subprocess, sys
ended = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(ended.returncode)
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
    variables.pop("PYTHONPATH", None)
    if own_code:
        variables["PYTHONPATH"] = str(PACKAGE)
    return variables


def finish(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in ``folder``, whether or not it fails."""
    return subprocess.run(command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)


def run(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> str:
    """What the command printed, errors included; raises :class:`SigmaError` with its last line where it fails."""
    ended = finish(command, folder, env)
    if ended.returncode != 0:
        raise _failure(command, folder, ended.stderr or ended.stdout)
    return ended.stdout + ended.stderr


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def _failure(command: Sequence[str], folder: Path, output: str) -> SigmaError:
    return SigmaError(f"{' '.join(command[:6])}: failed in {folder}: {last_line(output)}")


def peak_memory(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> float:
    """Run the command; returns the most resident memory, in MiB, that its process or one of its children had.

    The kernel records it, so that no short peak is missed.
    """
    ended = finish((sys.executable, "-I", "-S", "-c", _LAUNCHER, *command), folder, env)
    if ended.returncode != 0:
        raise _failure(command, folder, ended.stderr or ended.stdout)
    return int(last_line(ended.stdout)) / (2**20 if sys.platform == "darwin" else 2**10)
