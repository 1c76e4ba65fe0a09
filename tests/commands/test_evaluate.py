"""``sigma evaluate`` as a stage: its tables, and a calibration that has seen validation alone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sigma.commands.evaluate import CALIBRATION, HEADS, PREDICTIONS
from sigma.evaluation.predictions import stored_measures
from sigma.evaluation.replay.gate_replay import _before, calibrate_gate, measure_gate, stored_frames
from sigma.evaluation.replay.sigma_replay import decide, open_model
from sigma.policy.adapter.adapter import AGREEMENT, BEFORE, SIZE, SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import read_calibration
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, read_json
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
    assert line == "evaluate: 46 windows, calibrated on 14 frames of validation"
    for path in OUTPUTS:
        assert digest_file(again.root / path) == digest_file(trained.root / path), path


def test_the_table_has_the_agreed_columns_and_joins_the_baselines(trained):
    columns, _ = read_columns(trained.root / PREDICTIONS, ())
    assert {name: column.shape[1:] for name, column in columns.items()} == {
        **{name: () for name in ("window", "episode", "step", "split", "tau_l2", "sem_align")},
        **{name: () for name in ("control_tau_l2", "control_sem_align")},
        **{f"gate_{term}": () for term in (*BEFORE, AGREEMENT)},
        **{name: (8, 6) for name in ("base_action", "sigma_action", "cleared_action")},
        "tau": (3, 4),
    }
    baseline, _ = read_columns(trained.root / "data/predictions/baseline.parquet", ())
    for name in ("window", "episode", "step", "split", "base_action"):
        np.testing.assert_array_equal(columns[name], baseline[name])
    first = columns["step"] == 0
    for name, column in columns.items():
        # An episode's first decision has nothing before it.
        unknown = first if name in ("gate_change", "gate_tracking", "gate_agreement") else np.zeros_like(first)
        if column.dtype.kind == "f" and name != "cleared_action":
            assert np.isneginf(column[unknown]).all() and np.isfinite(column[~unknown]).all(), name


def test_memory_is_cleared_before_every_decision_but_the_first(trained):
    columns, _ = read_columns(trained.root / PREDICTIONS, ())
    first, held_out = columns["step"] == 0, columns["split"] != "train"
    moved = np.abs(columns["cleared_action"] - columns["sigma_action"]).max(axis=(1, 2))
    assert moved[first & held_out].max() < 1e-4 < moved[~first & held_out].min()
    assert np.isnan(columns["cleared_action"][~held_out]).all()


def test_the_calibration_is_that_of_validation_episodes_alone(trained):
    material = trained.material()
    model, frames = open_model(material, trained.root / "models/sigma"), stored_frames(material, np.arange(99))
    decided = decide(model, material, frames, 16, "decide")
    gate = measure_gate(material, frames, decided, 16)
    expected = calibrate_gate(model, material, gate, decided, [])
    other = gate.split != "validation"
    assert other.any() and not other.all()
    for values in (*gate.parts.values(), *gate.measured.values(), decided["sigma_action"]):
        values[other] = 1e6
    found = calibrate_gate(model, material, gate, decided, [])
    assert found.record == expected.record
    assert found.record["windows"] == 14 and found.record["episodes"] == 2
    for term, known in expected.ordinary.items():
        np.testing.assert_array_equal(found.ordinary[term].scores, known.scores)
    decided["sigma_action"][~other] += 1.0
    moved = calibrate_gate(model, material, gate, decided, [])
    assert moved.ordinary[SIZE].scores[0] > expected.ordinary[SIZE].scores[0]


def test_the_decision_before_a_frame_is_the_last_one_stored_at_least_a_chunk_earlier():
    """Whatever memory's stride is, which in some profiles is four chunks."""
    episode, step = np.array([3, 3, 3, 3, 5, 5]), np.array([32, 0, 8, 12, 0, 24])
    shards = SimpleNamespace(frame_episode=episode, frame_step=step, meta={"chunk": 8, "memory_stride": 32})
    assert _before(SimpleNamespace(shards=shards), np.arange(6)).tolist() == [3, -1, 1, 1, -1, 4]


def test_a_frame_is_compared_with_the_one_a_chunk_before_it(trained):
    """The scores of one window, from the stored frames and the recorded actions alone."""
    material, shards = trained.material(), trained.shards
    model, frames = open_model(material, trained.root / "models/sigma"), stored_frames(material, np.arange(99))
    decided = decide(model, material, frames, 16, "decide")
    gate = measure_gate(material, frames, decided, 16)
    episode = shards.meta["splits"]["validation"][0]
    rows = {int(shards.frame_step[row]): row for row in np.flatnonzero(shards.frame_episode == episode)}
    shared = decided["sigma_action"][rows[8]][:-4] - decided["sigma_action"][rows[4]][4:]
    assert gate.measured[AGREEMENT][rows[8]] == pytest.approx(np.sqrt((shared**2).mean()), rel=1e-4)
    (window,) = np.flatnonzero((shards.window_episode == episode) & (shards.window_step == 0))
    behind = (shards.frame_state[rows[8]] - shards.window_action[window, 7]) / gate.reference["state_spread"]
    asked = (shards.window_action[window, 7] - gate.reference["state_mean"]) / gate.reference["state_spread"]
    usual = [np.polyval(weights[::-1], x) for weights, x in zip(gate.reference["lag_weights"].T, asked, strict=True)]
    np.testing.assert_allclose(gate.parts["tracking"][rows[8]], np.abs(behind - usual))
    norms = decided["tau_l2"][gate.split == "validation"]
    assert gate.measured["tau"][rows[8]] == pytest.approx(
        abs(decided["tau_l2"][rows[8]] / np.median(norms) - 1), rel=1e-3
    )


def test_instructions_are_those_of_train_episodes_and_the_bases(trained):
    calibration = read_calibration(trained.root / CALIBRATION)
    assert calibration.record["instructions"] == sorted(trained.shards.tasks)
    own = [text for text in trained.configure().base.instructions if text not in trained.shards.tasks]
    assert calibration.record["base_instructions"] == own
    columns, _ = read_columns(trained.root / PREDICTIONS, ())
    assert not columns["gate_meaning"].any() and not columns["gate_wording"].any()


def test_the_calibration_serves_the_adapter(trained):
    columns, _ = read_columns(trained.root / PREDICTIONS, ())
    base, action, measures = columns["base_action"], columns["sigma_action"], stored_measures(columns)
    calibration = read_calibration(trained.root / CALIBRATION)
    np.testing.assert_array_equal(
        SigmaTelepathyAdapter(0.0, 0.0, calibration=calibration).execute(base, action, measures).plan, base
    )
    chosen = columns["split"] == "validation"
    measures = {term: score[chosen] for term, score in measures.items()}
    done = SigmaTelepathyAdapter(calibration=calibration).execute(base[chosen], action[chosen], measures)
    assert np.median(done.scale) > 0.95, "ordinary by what they are measured with"


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
