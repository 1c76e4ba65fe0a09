"""Files that appear whole or not at all, JSON and tables with stable bytes, and digests."""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.errors import SigmaError

if TYPE_CHECKING:
    import pyarrow


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed over ``path``, else removed."""
    path = Path(path)
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
    """Yield an empty temporary folder beside ``path``; on success it replaces ``path`` whole, else it is removed.

    The old folder is moved aside and removed last, so that a kill at any moment leaves one whole copy on the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        for item in temporary.rglob("*"):
            item.chmod(0o755 if item.is_dir() else 0o644)
            _fsync(item)
        temporary.chmod(0o755)
        _fsync(temporary)
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
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """Write JSON with sorted keys; a NaN or an infinity is an error that names its key."""
    _check_finite(value, Path(path).name)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a one-line error."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SigmaError(f"{path}: not found; run the stage that writes it (dvc repro)") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SigmaError(f"{path}: not readable as JSON ({' '.join(str(error).split())})") from None


def write_table(path: Path, table: "pyarrow.Table") -> None:
    """Write a Parquet table with stable bytes."""
    import pyarrow.parquet

    with atomic_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None) -> "pyarrow.Table":
    """Read a Parquet table; a missing or broken file is a one-line error."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, columns=columns, memory_map=True)
    except FileNotFoundError:
        raise SigmaError(f"{path}: not found; run the stage that writes it (dvc repro)") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise SigmaError(f"{path}: not readable as Parquet ({' '.join(str(error).split())})") from None


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(path: Path) -> str:
    """SHA-256 over the sorted relative names and bytes of every file under ``path``, in hex."""
    whole = hashlib.sha256()
    for file in sorted(item for item in Path(path).rglob("*") if item.is_file()):
        whole.update(file.relative_to(path).as_posix().encode() + b"\0" + bytes.fromhex(digest_file(file)))
    return whole.hexdigest()
