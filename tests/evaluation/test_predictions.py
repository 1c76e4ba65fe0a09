"""Tables of different runs, and numbers that are none, are refused by name."""

from pathlib import Path

import numpy as np
import pytest

from sigma.evaluation.predictions import read_predictions
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, read_table, write_json, write_table
from sigma.shared.tables import from_table, to_table
from tests.predictions import CAMERAS, JOINTS, write_predictions


@pytest.fixture
def root(tmp_path):
    write_predictions(tmp_path, test=2)
    return tmp_path


def _read(root: Path):
    return read_predictions(root / "data")


def _edit(root: Path, name: str, change) -> None:
    path = root / "data/predictions" / f"{name}.parquet"
    columns = {key: np.array(value) for key, value in from_table(read_table(path)).items()}
    change(columns)
    write_table(path, to_table(columns))


def test_both_tables_and_pictures_come_back(root):
    predictions = _read(root)
    assert predictions.joints == JOINTS
    assert predictions.scored.all()
    assert len(predictions.rows("test")) + len(predictions.rows("validation")) == len(predictions.frames)
    pictures = predictions.frames[int(predictions.rows("test")[0])]
    assert [camera for camera, _ in pictures] == CAMERAS
    assert pictures[0][1].startswith(b"\xff\xd8")


def test_joints_that_the_windows_exclude_are_not_scored(root):
    path = root / "data/shards/meta.json"
    write_json(path, {**read_json(path), "exclude_joints": [JOINTS[1]]})
    assert _read(root).scored.tolist() == [True, False, True]


def _shift(columns):
    columns["step"][0] += 1


def _other_base(columns):
    columns["base_action"] = columns["base_action"] + 0.1


def _nan(name):
    def change(columns):
        columns[name].reshape(-1)[0] = np.nan

    return change


def _fewer_steps(columns):
    columns["sigma_action"] = columns["sigma_action"][:, :3]


@pytest.mark.parametrize(
    "table, change, message",
    [
        ("sigma", _shift, r"sigma\.parquet: column 'step' differs"),
        ("sigma", _other_base, r"sigma\.parquet: its base actions are not those"),
        ("sigma", _nan("tau_l2"), r"sigma\.parquet: column 'tau_l2' holds a value that is not finite"),
        ("baseline", _nan("base_samples"), r"baseline\.parquet: column 'base_samples' holds a value"),
        ("sigma", lambda columns: columns.pop("tau"), r"sigma\.parquet: column 'tau' is missing"),
        # The first version stored residuals instead.
        ("sigma", lambda columns: columns.pop("sigma_action"), r"sigma\.parquet: column 'sigma_action' is missing"),
        ("sigma", _fewer_steps, r"sigma\.parquet: column 'sigma_action' has shape .*, 3, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(root, table, change, message):
    _edit(root, table, change)
    with pytest.raises(SigmaError, match=message):
        _read(root)


def test_a_run_without_test_windows_is_refused(tmp_path):
    write_predictions(tmp_path, test=0)
    with pytest.raises(SigmaError, match="no test window"):
        _read(tmp_path)
