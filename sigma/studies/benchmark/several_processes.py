"""Commands in processes of their own: their environment, their time, and the memory of a process with its children."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sigma.shared.errors import SigmaError

POLL = 0.05  # seconds between two looks at a running process
PACKAGE = Path(__file__).resolve().parents[2]  # the folder that holds the package
_FOREIGN = ("DVC_", "GIT_")  # set by a running `dvc repro`, and misleading in another project
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(threads: int | None = None, *, own_code: bool = True) -> dict[str, str]:
    """The environment of a measured process: the environment's own python first, and ``threads`` kernel threads.

    With ``own_code`` it runs this package wherever it works; without, the one of the project that it works in.
    """
    found = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found.get('PATH', '')}"
    found |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if threads is not None:
        found |= dict.fromkeys(_THREADS, str(threads))
    found.pop("PYTHONPATH", None)
    if own_code:
        found["PYTHONPATH"] = str(PACKAGE)
    return found


def run(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> str:
    """What the command printed, errors included; raises :class:`SigmaError` with its last line where it fails."""
    done = subprocess.run(command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SigmaError(f"{' '.join(command[:6])}: failed in {folder}: {last_line(done.stderr or done.stdout)}")
    return done.stdout + done.stderr


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def seconds_of(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> float:
    """Seconds from start to end of the command."""
    started = time.perf_counter()
    run(command, folder, env)
    return time.perf_counter() - started


@dataclass(frozen=True)
class Usage:
    """Peak memory in MiB of a process and all its children, of that process alone (``first``), and seconds."""

    peak: float
    first: float
    seconds: float


def usage_of(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Usage:
    """Run the command in a fresh process and watch it and its children.

    The peak is the sum of each process's own high-water mark of resident memory: no short peak is missed, and pages
    that processes share, or marks of processes that did not live at one time, count more than once.
    """
    import psutil

    with tempfile.TemporaryFile("w+") as printed:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=dict(env), stdout=printed, stderr=subprocess.STDOUT)
        peaks: dict[int, int] = {}
        root = psutil.Process(process.pid)
        while process.poll() is None:
            for one in _family(root):
                peaks[one.pid] = max(peaks.get(one.pid, 0), _high_water(one))
            time.sleep(POLL)
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            printed.seek(0)
            raise SigmaError(f"{' '.join(command[:6])}: failed in {folder}: {last_line(printed.read())}")
    return Usage(sum(peaks.values()) / 2**20, peaks.get(process.pid, 0) / 2**20, seconds)


def _family(root) -> list:
    import psutil

    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _high_water(process) -> int:
    """The most resident memory that the process has had, in bytes; where the kernel does not tell, what it has now."""
    import psutil

    try:
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        try:
            return process.memory_info().rss
        except psutil.Error:
            return 0
