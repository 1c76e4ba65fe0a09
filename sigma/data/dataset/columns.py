"""Columns of a LeRobotDataset's tables as arrays, or one line that says why not."""

import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from sigma.shared.errors import SigmaError


def read_rows(path: Path, columns: list[str], episode: int | None = None) -> pyarrow.Table:
    """These columns of one episode, or of all episodes with their ``episode_index``, in stored order."""
    try:
        if episode is None:
            return pyarrow.parquet.read_table(path, columns=[*columns, "episode_index"])
        return pyarrow.parquet.read_table(path, columns=columns, filters=[("episode_index", "==", episode)])
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        if missing := re.search(r"No match for FieldRef\.Name\(([^)]+)\)", reason):
            raise SigmaError(f"{path}: column {missing.group(1)!r} is missing") from None
        if "footer" in reason:
            reason += "; it was cut, or its recording was not finished"
        raise SigmaError(f"{path}: not readable as a LeRobot table ({reason})") from None


def column_names(table: pyarrow.Table, path: Path) -> list[str]:
    """Names of a table's columns."""
    try:
        return table.column_names
    except UnicodeDecodeError:
        raise SigmaError(f"{path}: a column's name is not text") from None


def one_column(table: pyarrow.Table, column: str, path: Path) -> pyarrow.ChunkedArray:
    """The column of this name, which must be there exactly once."""
    if column_names(table, path).count(column) != 1:
        raise SigmaError(f"{path}: column {column!r} is missing or there twice")
    return table[column]


def vector(table: pyarrow.Table, column: str, dtype: type, path: Path) -> np.ndarray:
    """A non-null numeric column as ``dtype``, [n]; for an integer ``dtype`` every number must be whole."""
    values = one_column(table, column, path)
    if values.null_count:
        raise SigmaError(f"{path}: column {column!r} has {values.null_count} empty values")
    try:
        numbers = values.to_numpy().astype(np.float64 if values.type in ("float", "double") else dtype)
    except (TypeError, ValueError):
        raise SigmaError(f"{path}: column {column!r} is not numeric") from None
    if issubclass(dtype, np.integer) and not (np.isfinite(numbers) & (numbers == np.floor(numbers))).all():
        raise SigmaError(f"{path}: column {column!r} holds a number that is not whole")
    return numbers.astype(dtype)


def matrix(table: pyarrow.Table, column: str, width: int, path: Path) -> np.ndarray:
    """A column with a vector of ``width`` numbers in each row, as float32 [n, width]."""
    rows = one_column(table, column, path).to_pylist()
    if not rows:
        return np.zeros((0, width), dtype=np.float32)
    try:
        values = np.array(rows, dtype=np.float32).reshape(len(rows), -1)
    except (TypeError, ValueError):
        raise SigmaError(f"{path}: column {column!r} is not numeric with equal lengths") from None
    if values.shape[1] != width:
        raise SigmaError(f"{path}: column {column!r} has {values.shape[1]} values a row, meta/info.json says {width}")
    return values


def texts(table: pyarrow.Table, column: str, path: Path) -> list[str]:
    """A column of texts; a null is an empty text."""
    try:
        return ["" if text is None else str(text) for text in one_column(table, column, path).to_pylist()]
    except UnicodeDecodeError:
        raise SigmaError(f"{path}: column {column!r} is not text") from None
