"""Prediction tables keep shapes, types and metadata, and open in pandas."""

import numpy as np
import pandas as pd
import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import write_table
from sigma.shared.tables import from_table, metadata_of, read_columns, to_table

COLUMNS = {
    "window": np.arange(5, dtype=np.int64),
    "task": np.array(["put it left", "put it right", "", "ünï", "<b>"]),
    "kept": np.array([True, False, True, True, False]),
    "valid": np.random.default_rng(0).random((5, 4)) > 0.5,
    "action": np.random.default_rng(1).normal(size=(5, 4, 3)).astype(np.float32),
    "samples": np.random.default_rng(2).normal(size=(5, 2, 4, 3)),
    "jpeg": np.array([b"\x00\xff", b"a", b"", b"bb", b"c"], dtype=object),
}


@pytest.fixture
def path(tmp_path):
    write_table(tmp_path / "table.parquet", to_table(COLUMNS, {"seed": "7"}))
    return tmp_path / "table.parquet"


def test_every_column_comes_back_with_its_shape_type_and_bits(path):
    columns, metadata = read_columns(path, COLUMNS)
    assert metadata == {"seed": "7"}
    assert list(columns) == list(COLUMNS)
    for name, array in COLUMNS.items():
        assert columns[name].shape == array.shape, name
        assert columns[name].dtype.kind == array.dtype.kind, name
        assert columns[name].tolist() == array.tolist(), name
    assert columns["action"].dtype == np.float32


def test_a_slice_gives_its_own_rows():
    part = from_table(to_table(COLUMNS).slice(2, 2))
    assert np.array_equal(part["action"], COLUMNS["action"][2:4])
    assert np.array_equal(part["valid"], COLUMNS["valid"][2:4])


def test_an_empty_table_keeps_its_shapes():
    empty = from_table(to_table({"action": np.zeros((0, 4, 3), np.float32), "task": np.zeros(0, "U1")}))
    assert empty["action"].shape == (0, 4, 3)
    assert empty["task"].shape == (0,)


def test_pandas_reads_the_file(path):
    frame = pd.read_parquet(path)
    assert len(frame) == 5
    assert np.allclose(np.stack(frame["action"]).reshape(5, 4, 3), COLUMNS["action"])


def test_equal_content_gives_equal_bytes(path, tmp_path):
    write_table(tmp_path / "again.parquet", to_table(COLUMNS, {"seed": "7"}))
    assert path.read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="number of rows"):
        to_table({"a": np.zeros(2), "b": np.zeros(3)})


def test_a_missing_column_is_named_with_its_file(path):
    with pytest.raises(SigmaError, match=r"table\.parquet.*'tau'"):
        read_columns(path, ["window", "tau"])


def test_metadata_is_text():
    assert metadata_of(to_table({"a": np.zeros(1)}, {"digest": "ab"})) == {"digest": "ab"}
