"""Training state that survives a kill: one file, written whole, in a scratch folder outside the tree.

DVC empties a stage's outputs before it runs it and removes experiment copies even on failure, so the state lies
elsewhere: in ``$SIGMA_SCRATCH``, else beside the resolved DVC cache, in a folder named by the digest of every input.
A run of other inputs never finds it; a file lock keeps two runs of the same inputs apart. Of several processes the
first one locks, reads and writes; all of them know what was read.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from sigma.compute.processes import broadcast_first, rank
from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_file, read_torch


def scratch_root() -> Path:
    """``$SIGMA_SCRATCH``, else ``sigma-scratch`` beside DVC's cache, else ``.sigma-scratch`` in the current folder."""
    if chosen := os.environ.get("SIGMA_SCRATCH"):
        return Path(chosen)
    answer = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False)
    if answer.returncode == 0 and answer.stdout.strip():
        return Path(answer.stdout.strip()).parent / "tmp" / "sigma-scratch"
    return Path(".sigma-scratch")


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            # torch writes check sums but never reads them, so a flipped bit would pass for a weight.
            if altered := archive.testzip():
                raise ValueError(f"{altered} was altered")
        return read_torch(file)
    except Exception as error:
        raise SigmaError(
            f"{file}: checkpoint not readable ({type(error).__name__}); delete it to train from the start"
        ) from None


def _write(file: Path, state: dict[str, Any]) -> None:
    """Write the whole file or nothing: temporary file, fsync, rename."""
    with atomic_file(file) as temporary, open(temporary, "wb") as stream:
        torch.save(state, stream)


class Scratch:
    """The place of one training's state."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "state.pt"

    @classmethod
    @contextmanager
    def open(cls, key: str) -> Iterator["Scratch"]:
        """Lock the folder of this key; raises :class:`SigmaError` where another run holds it.

        Of several processes the first one locks; the others have no folder.
        """
        if rank():
            yield cls(Path())
            return
        folder = scratch_root() / key[:32]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SigmaError(f"{folder}: no place for checkpoints ({error.strerror}); set SIGMA_SCRATCH") from None
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SigmaError(f"{folder}: another run trains on the same inputs; wait for it or stop it") from None
        try:
            yield cls(folder)
        finally:
            lock.release()

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None; a file that cannot be read is an error, never a silent restart."""
        return broadcast_first(partial(_read, self.file))

    def save(self, state: dict[str, Any]) -> None:
        """Write the whole state or, where writing fails, leave the last one."""
        if not rank():
            _write(self.file, state)

    def clear(self) -> None:
        """Remove the state of a finished training."""
        if not rank():
            shutil.rmtree(self.folder, ignore_errors=True)
