"""Files that appear whole or not at all, JSON and tables with stable bytes, tensors without pickles, and digests."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.shared.errors import SigmaError

if TYPE_CHECKING:
    import pyarrow


# Error numbers with which a file system refuses to write a file.
_REFUSALS = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO")}
_REFUSALS |= {getattr(errno, name) for name in ("EEXIST", "ENOTDIR", "EISDIR", "EBUSY", "ENAMETOOLONG")}


def _refusal(error: BaseException | None) -> str:
    """Why the file system refused a write; empty where the error has another cause.

    Libraries wrap the system's error in errors of their own, so the whole chain is searched.
    """
    while error is not None:
        match = re.search(r"os error (\d+)", str(error))  # how libraries written in Rust show the error number
        number = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
        if number is not None and number in _REFUSALS:
            return os.strerror(number)
        error = error.__cause__ or error.__context__
    return ""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the file system into one line that names ``path``."""
    try:
        yield
    except SigmaError:
        raise
    except Exception as error:
        reason = _refusal(error)
        if not reason:
            raise
        raise SigmaError(f"{path}: cannot be written ({reason})") from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed over ``path``, else removed.

    Raises :class:`SigmaError` where the file system refuses the write: no space, read-only, a folder of that name.
    """
    path = Path(path)
    with _writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            _fsync(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; on success it replaces ``path``, else it is removed.

    The old folder is moved aside and removed last, so that a kill at any moment leaves a complete copy on the disk.
    Raises :class:`SigmaError` as :func:`atomic_file` does.
    """
    path = Path(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            for item in temporary.rglob("*"):
                item.chmod(0o755 if item.is_dir() else 0o644)
                _fsync(item)
            temporary.chmod(0o755)
            _fsync(temporary)
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(temporary: Path, path: Path) -> None:
    old = temporary.with_name(f"{temporary.name}.old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(temporary, path)
    except BaseException:
        if old.exists():
            os.replace(old, path)
        raise
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


class Outputs(ExitStack):
    """Outputs of one command that appear together.

    Each is written beside its final path. Once all are complete, they are renamed to their paths, the last one first.
    """

    def file(self, path: Path) -> Path:
        """The temporary path of a file that becomes ``path`` at the end."""
        return self.enter_context(atomic_file(path))

    def folder(self, path: Path) -> Path:
        """An empty temporary folder that becomes ``path`` at the end."""
        return self.enter_context(atomic_directory(path))

    def json(self, path: Path, value: Any) -> None:
        """Write JSON with sorted keys; a NaN or an infinity raises :class:`ValueError`, which names its key."""
        _check_finite(value, Path(path).name)
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
        self.file(path).write_text(text + "\n", encoding="utf-8")

    def table(self, path: Path, table: "pyarrow.Table") -> None:
        """Write a Parquet table; the same table always has the same bytes."""
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, self.file(path), compression="zstd")


def _check_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: a non-finite number cannot be written to JSON")
    if isinstance(value, dict):
        for key, child in value.items():
            _check_finite(child, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            _check_finite(child, f"{where}[{index}]")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON file as :meth:`Outputs.json` does."""
    with Outputs() as outputs:
        outputs.json(path, value)


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a one-line error."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SigmaError(f"{path}: not found; run the stage that writes it (dvc repro)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SigmaError(f"{path}: not readable as JSON ({' '.join(str(error).split())})") from None


def write_table(path: Path, table: "pyarrow.Table") -> None:
    """Write one Parquet table as :meth:`Outputs.table` does."""
    with Outputs() as outputs:
        outputs.table(path, table)


def read_table(path: Path, columns: list[str] | None = None) -> "pyarrow.Table":
    """Read a Parquet table; a missing or broken file is a one-line error."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, columns=columns, memory_map=True)
    except FileNotFoundError:
        raise SigmaError(f"{path}: not found; run the stage that writes it (dvc repro)") from None
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise SigmaError(f"{path}: not readable as Parquet ({' '.join(str(error).split())})") from None


def read_torch(path: Path, *, mmap: bool = False) -> Any:
    """Load on the CPU what ``torch.save`` wrote: tensors in plain containers. No other object is unpickled.

    For a broken file, or one that holds other objects, torch's own error is raised; the caller knows what the file
    should have been and words the message.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of another pickle protocol before it refuses the file
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(path: Path) -> str:
    """SHA-256 over the sorted relative names and bytes of every file under ``path``, in hex."""
    digest = hashlib.sha256()
    for file in sorted(item for item in Path(path).rglob("*") if item.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" + bytes.fromhex(digest_file(file)))
    return digest.hexdigest()
