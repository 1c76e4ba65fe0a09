"""``sigma evaluate`` as a stage: its tables, and a calibration that has seen validation alone."""

import json

import numpy as np
import pytest

from sigma.commands.evaluate import CALIBRATION, HEADS, PREDICTIONS
from sigma.evaluation.replay.sigma_replay import calibrate_windows, replay_sigma
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter, read_calibration, read_reference
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, read_json
from sigma.shared.spans import residuals
from sigma.shared.tables import read_columns
from tests.worlds import World

OUTPUTS = (PREDICTIONS, HEADS, CALIBRATION, CALIBRATION.with_suffix(".safetensors"))


@pytest.fixture
def again(trained, tmp_path) -> World:
    return trained.copy(tmp_path / "again")


def test_the_same_model_gives_the_same_bytes_without_dataset(again, trained):
    for path in OUTPUTS:
        (again.root / path).unlink()
    (line,) = again.run("evaluate")
    assert line == "evaluate: 42 windows, calibrated on 6 of validation"
    for path in OUTPUTS:
        assert digest_file(again.root / path) == digest_file(trained.root / path), path


def test_the_table_has_the_agreed_columns_and_joins_the_baselines(trained):
    columns, _ = read_columns(trained.root / PREDICTIONS, ())
    assert {name: column.shape[1:] for name, column in columns.items()} == {
        **{name: () for name in ("window", "episode", "step", "split", "tau_l2", "sem_align")},
        **{name: () for name in ("control_tau_l2", "control_sem_align", "feature_distance", "text_distance")},
        **{name: (8, 6) for name in ("base_action", "sigma_action")},
        "tau": (3, 4),
    }
    baseline, _ = read_columns(trained.root / "data/predictions/baseline.parquet", ())
    for name in ("window", "episode", "step", "split", "base_action"):
        np.testing.assert_array_equal(columns[name], baseline[name])
    assert all(np.isfinite(column).all() for column in columns.values() if column.dtype.kind == "f")


def test_validation_windows_are_unlike_others_by_their_own_episode_left_out(trained):
    columns, _ = read_columns(trained.root / PREDICTIONS, ())
    assert (columns["feature_distance"] > 0).all(), "a window must not be its own neighbour"
    assert columns["text_distance"].max() < 1e-5, "both instructions are in validation"


def test_the_calibration_is_that_of_validation_windows_alone(trained):
    material = trained.material()
    replay = replay_sigma(material, trained.root / "models/sigma", batch=16)
    expected, reference = calibrate_windows(material, replay)
    chosen = material.split == "validation"
    assert chosen.any() and not chosen.all()
    for name, column in list(replay.columns.items()):
        if column.dtype.kind == "f":
            replay.columns[name] = column.copy()
            replay.columns[name][~chosen] = 1e6
    found, same = calibrate_windows(material, replay)
    assert found == expected and all(np.array_equal(same[name], reference[name]) for name in reference)
    base = replay.columns["base_action"]
    replay.columns["sigma_action"][chosen] += (replay.columns["sigma_action"] - base)[chosen]
    moved, _ = calibrate_windows(material, replay)
    assert moved["branches"]["vector"]["residual_q95"] > 1.5 * expected["branches"]["vector"]["residual_q95"]
    assert sorted(set(material.columns["episode"][chosen])) == sorted(set(reference["episodes"]))


def test_the_calibration_serves_the_adapter(trained):
    calibration = read_calibration(trained.root / CALIBRATION)
    assert calibration["windows"] == 6 and calibration["episodes"] == 2
    assert read_reference(trained.root / CALIBRATION)["features"].shape == (6, 4 * 24)
    columns, _ = read_columns(trained.root / PREDICTIONS, ())
    adapter = SigmaTelepathyAdapter(min_scale=0.0, max_scale=0.0, calibration=calibration)
    corrections = residuals(columns["base_action"], columns["sigma_action"], 4)
    execution = adapter.execute(columns["base_action"], corrections)
    np.testing.assert_array_equal(execution.plan, columns["base_action"])


@pytest.mark.parametrize(("span", "steps"), [("vector", 1), ("chunk", 4), ("trajectory", 8)])
def test_a_residual_is_sigmas_action_minus_the_bases_on_its_span(trained, span, steps):
    columns, _ = read_columns(trained.root / PREDICTIONS, ())
    residual = (columns["sigma_action"] - columns["base_action"])[columns["split"] == "validation", :steps]
    assert residual.any()
    expected = np.quantile(np.sqrt((residual.astype(np.float64) ** 2).mean(axis=(1, 2))), 0.95)
    found = read_calibration(trained.root / CALIBRATION)["branches"][span]["residual_q95"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_both_passes_used_the_same_heads(trained):
    heads = read_json(trained.root / HEADS)
    assert heads["control"] == heads["sigma"] and heads["sigma"]["tensors"] > 20 and len(heads["sigma"]["digest"]) == 64


def test_a_model_that_is_missing_or_of_other_data_is_refused_and_nothing_is_written(again, own):
    with pytest.raises(SigmaError, match=r"models/sigma/config\.json: not found"):
        own.run("evaluate")
    assert not (own.root / PREDICTIONS).exists()
    for path in OUTPUTS:
        (again.root / path).unlink()
    file = again.root / "models/sigma/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"dataset": {**config["dataset"], "digest": "0" * 64}}))
    with pytest.raises(SigmaError, match="trained on another dataset or base"):
        again.run("evaluate")
    assert not any((again.root / path).exists() for path in OUTPUTS)
