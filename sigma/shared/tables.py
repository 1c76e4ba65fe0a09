"""Arrays as Parquet columns: one row a window; an array's trailing shape is stored in its column's metadata.

A user can open such a table in pandas; :func:`from_table` returns the arrays with their original shapes and types.
"""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import pyarrow as pa

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_table

SHAPE = b"shape"
NUMBERS = "biuf"
KINDS = {"split": "U", "task": "U", "phase": "U", "camera": "U", "jpeg": "O"}
"""NumPy's kind of the columns that hold text or bytes; every other column holds numbers."""


def _column(name: str, array: np.ndarray) -> tuple[pa.Field, pa.Array]:
    shape = array.shape[1:]
    if array.dtype.kind in "OUS":
        if shape:
            raise ValueError(f"{name}: text and bytes columns have one value a row, found shape {array.shape}")
        values = pa.array(array.tolist(), type=pa.string() if array.dtype.kind == "U" else None)
        return pa.field(name, values.type, nullable=False), values
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    if not shape:
        return pa.field(name, flat.type, nullable=False), flat
    size = prod(shape)
    if size == 0:
        raise ValueError(f"{name}: an empty trailing shape {shape} cannot be stored")
    values = pa.FixedSizeListArray.from_arrays(flat, size)
    label = {SHAPE: ",".join(map(str, shape)).encode()}
    return pa.field(name, values.type, nullable=False, metadata=label), values


def to_table(columns: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> pa.Table:
    """A table of ``columns``, each ``[W, ...]`` with the same W.

    Numeric and boolean arrays of any trailing shape, and 1-D arrays of text or bytes, are accepted. Raises
    :class:`ValueError` where the numbers of rows differ: that is a fault of the caller, not of the user.
    """
    arrays = {name: np.asarray(array) for name, array in columns.items()}
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"columns differ in their number of rows: {rows}")
    fields, values = zip(*(_column(name, array) for name, array in arrays.items()), strict=True)
    return pa.Table.from_arrays(list(values), schema=pa.schema(list(fields), metadata=dict(metadata or {})))


def from_table(table: pa.Table) -> dict[str, np.ndarray]:
    """The arrays of a table written by :func:`to_table`; text comes back as ``str``, bytes as objects."""
    columns = {}
    for field in table.schema:
        column = table.column(field.name)
        if column.null_count:
            raise SigmaError(f"column {field.name!r} has {column.null_count} empty values")
        values = column.combine_chunks()
        if pa.types.is_fixed_size_list(field.type):
            text = (field.metadata or {}).get(SHAPE, str(field.type.list_size).encode()).decode(errors="replace")
            flat = values.flatten().to_numpy(zero_copy_only=False)
            try:
                columns[field.name] = flat.reshape(len(values), *(int(part) for part in text.split(",")))
            except ValueError:
                raise SigmaError(f"column {field.name!r} does not have the shape {text}") from None
        elif pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            columns[field.name] = np.array(values.to_pylist(), dtype=str)
        else:
            columns[field.name] = values.to_numpy(zero_copy_only=False)
    return columns


def metadata_of(table: pa.Table) -> dict[str, str]:
    """The texts that :func:`to_table` stored as the table's metadata."""
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


def read_columns(path: Path, required: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and metadata of one prediction table; a missing column is a one-line error that names it."""
    table = read_table(path)
    missing = sorted(set(required) - set(table.column_names))
    if missing:
        raise SigmaError(f"{path}: column {missing[0]!r} is missing; run the stage that writes it again (dvc repro)")
    try:
        columns, metadata = from_table(table), metadata_of(table)
    except (SigmaError, UnicodeDecodeError) as error:
        raise SigmaError(f"{path}: {error}") from None
    for name in required:
        if columns[name].dtype.kind not in KINDS.get(name, NUMBERS):
            raise SigmaError(f"{path}: column {name!r} is not {'numeric' if name not in KINDS else 'text or bytes'}")
    return columns, metadata
