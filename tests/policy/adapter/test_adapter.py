"""The adapter's promises, on NumPy and torch alike."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import (
    calibrate,
    read_calibration,
    read_reference,
    reference_set,
    write_calibration,
)
from sigma.policy.adapter.measures import Measures, feature_distance, text_distance
from sigma.shared.errors import SigmaError
from sigma.shared.spans import SPANS, residuals, span_steps, split

B, T, C, D = 3, 6, 4, 2
FINITE = st.floats(-4, 4, width=32)


def _arrays(shape):
    return hnp.arrays(np.float32, shape, elements=FINITE)


ACTIONS = st.tuples(_arrays((B, T, D)), _arrays((B, T, D)))


@pytest.fixture(scope="module")
def calibration():
    return _calibration()


def _calibration():
    random = np.random.default_rng(3)
    windows, episodes = 60, np.repeat(np.arange(6), 10)
    features = random.normal(size=(windows, 8))
    return calibrate(
        base_action=random.normal(0, 0.3, (windows, T, D)),
        hold=random.normal(0, 0.3, (windows, D)),
        corrections={span: random.normal(0, 0.1, (windows, steps, D)) for span, steps in span_steps(C, T).items()},
        tau_l2=random.normal(8, 0.3, windows),
        alignment=random.uniform(0.6, 0.9, windows),
        feature_distance=feature_distance(features, features, episodes=episodes, calibration_episodes=episodes),
        episodes=episodes,
        instructions=["put the cube in the red box"],
    )


def _residuals(residual):
    return split(residual, C)


@settings(deadline=None, max_examples=60)
@given(ACTIONS, st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 5))
def test_scale_lies_between_its_bounds_and_the_action_is_finite(actions, first, second, temperature):
    low, high = sorted((first, second))
    adapter = SigmaTelepathyAdapter(low, high, temperature, calibration=_CALIBRATION)
    done = adapter.execute(actions[0], _residuals(actions[1]))
    for span in SPANS:
        assert (done.scales[span] >= np.float32(low)).all()
        assert (done.scales[span] <= np.float32(high)).all()
    assert np.isfinite(done.plan).all()
    assert done.plan.shape == (B, T, D)


_CALIBRATION = _calibration()


@settings(deadline=None, max_examples=60)
@given(ACTIONS, st.floats(1, 1e6), st.sampled_from(SPANS))
def test_scale_does_not_rise_as_the_residual_grows(actions, factor, span):
    adapter = SigmaTelepathyAdapter(calibration=_CALIBRATION)
    base, residual = (array.astype(np.float64) for array in actions)
    small, large = (adapter.risk(base, residual * size, span=span) for size in (1.0, factor))
    assert (large >= small).all()
    assert (adapter.scale(large) <= adapter.scale(small)).all()


def test_risk_grows_strictly_with_the_residual_and_falls_strictly_with_alignment(calibration):
    adapter = SigmaTelepathyAdapter(calibration=calibration)
    base = np.ones((B, D))
    sizes = [adapter.risk(base, base * size)[0] for size in (0.0, 0.1, 0.2, 1.0, 10.0)]
    assert np.all(np.diff(sizes) > 0)
    alignments = [
        adapter.risk(base, base, Measures(alignment=np.full(B, value)))[0] for value in (-1.0, 0.0, 0.3, 0.9, 1.0)
    ]
    assert np.all(np.diff(alignments) < 0)
    assert adapter.scale(np.array(alignments))[-1] > adapter.scale(np.array(alignments))[0]


@settings(deadline=None, max_examples=60)
@given(ACTIONS, st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, B - 1), st.integers(0, T - 1))
def test_a_residual_that_is_not_finite_counts_as_zero(actions, value, row, step):
    base, residual = actions[0], actions[1].copy()
    residual[row, step, 0] = value
    adapter = SigmaTelepathyAdapter(0.2, 1.0, calibration=_CALIBRATION)
    done = adapter.execute(base, _residuals(residual))
    assert np.isfinite(done.plan).all()
    assert np.array_equal(done.actions["trajectory"][row], base[row] + np.float32(0))
    without = adapter.execute(base, _residuals(np.zeros_like(residual)))
    assert done.risks["trajectory"][row] == without.risks["trajectory"][row]


@pytest.mark.parametrize("measure", ["alignment", "feature_distance", "text_distance", "telepathy_factors", "hold"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_measure_that_is_not_finite_gives_the_smallest_scale(measure, value, calibration):
    adapter = SigmaTelepathyAdapter(0.1, 0.9, calibration=calibration)
    shape = {"telepathy_factors": (B, 2, 3), "hold": (B, D)}.get(measure, (B,))
    risk = adapter.risk(np.ones((B, D)), np.ones((B, D)), Measures(**{measure: np.full(shape, value)}))
    assert np.all(risk == np.inf)
    assert np.allclose(adapter.scale(risk), 0.1)


@settings(deadline=None, max_examples=60)
@given(ACTIONS)
def test_at_scale_zero_the_base_is_selected_to_the_bit(actions):
    base, residual = actions[0], actions[1]
    base[0, 0, 0] = np.float32(-0.0)
    off = SigmaTelepathyAdapter(0.0, 0.0).execute(base, _residuals(residual))
    assert off.plan.tobytes() == base.tobytes()
    huge = np.full_like(residual, 1e30)
    refused = SigmaTelepathyAdapter(calibration=_CALIBRATION).execute(base, _residuals(huge))
    assert refused.plan.tobytes() == base.tobytes()


ANYTHING = hnp.arrays(np.float32, (B, T, D), elements=st.floats(width=32))


@settings(deadline=None, max_examples=60)
@given(ACTIONS, ANYTHING, st.floats(width=32), st.sampled_from([None, "calibrated"]))
def test_at_scale_zero_nothing_of_whatever_is_beside_the_base_reaches_the_robot(actions, residual, value, calibrated):
    adapter = SigmaTelepathyAdapter(0.0, 0.0, calibration=_CALIBRATION if calibrated else None)
    measures = {name: np.full(B, value) for name in ("alignment", "feature_distance", "text_distance")}
    done = adapter.execute(actions[0], _residuals(residual), Measures(**measures))
    assert done.plan.tobytes() == actions[0].tobytes()
    tensors = [torch.from_numpy(array) for array in (actions[0], residual)]
    plan = adapter.execute(tensors[0], _residuals(tensors[1])).plan
    assert plan.numpy().tobytes() == actions[0].tobytes()


@settings(deadline=None, max_examples=40)
@given(ACTIONS, _arrays((B, 2, 3)), hnp.arrays(np.float32, (B,), elements=st.floats(-1, 1, width=32)))
def test_numpy_and_torch_agree(actions, factors, alignment):
    measures = {
        "telepathy_factors": factors,
        "alignment": alignment,
        "hold": actions[0][:, 0],
        "feature_distance": np.abs(alignment),
        "text_distance": np.abs(alignment) / 10,
    }
    adapter = SigmaTelepathyAdapter(calibration=_CALIBRATION)
    one = adapter.execute(actions[0], _residuals(actions[1]), Measures(**measures))
    tensors = {name: torch.from_numpy(array) for name, array in measures.items()}
    base, residual = (torch.from_numpy(array) for array in actions)
    two = adapter.execute(base, _residuals(residual), Measures(**tensors))
    np.testing.assert_allclose(one.plan, two.plan.numpy(), rtol=1e-4, atol=1e-4)
    for span in SPANS:
        np.testing.assert_allclose(one.scales[span], two.scales[span].numpy(), rtol=1e-3, atol=1e-4)


def test_the_card_s_call_works_without_calibration():
    adapter = SigmaTelepathyAdapter(min_scale=0.0, max_scale=1.0, risk_temperature=1.0)
    base, residual = torch.zeros(2, D), torch.full((2, D), 0.05)
    blended = adapter(base_action_vector=base, telepathy_residual=residual, telepathy_factors=torch.randn(2, 8, 16))
    assert blended.shape == base.shape
    assert (blended / residual > 0.9).all()
    half = adapter(base_action_vector=base.bfloat16(), telepathy_residual=residual.bfloat16())
    assert half.dtype == torch.bfloat16


def test_the_plan_takes_each_step_from_the_finest_span_that_covers_it():
    corrections = {
        "vector": np.full((B, 1, D), 1.0),
        "chunk": np.full((B, C, D), 2.0),
        "trajectory": np.full((B, T, D), 3.0),
    }
    done = SigmaTelepathyAdapter(1.0, 1.0).execute(np.zeros((B, T, D)), corrections)
    assert done.plan[0, :, 0].tolist() == [1.0] + [2.0] * (C - 1) + [3.0] * (T - C)


@settings(deadline=None, max_examples=60)
@given(ACTIONS, st.floats(0, 1), st.floats(0, 1))
def test_bounds_that_leave_no_choice_fix_the_scale_whatever_is_measured(actions, first, second):
    """Between the bounds 1 and 1 the plan is Sigma's action, between 0 and 0 the base's."""
    low, high = sorted((first, second))
    adapter = SigmaTelepathyAdapter(low, high, calibration=_CALIBRATION)
    assert (adapter.fixed_scale is None) is (low < high)
    fixed = SigmaTelepathyAdapter(low, low, calibration=_CALIBRATION)
    assert fixed.fixed_scale == low
    base, action = (array.astype(np.float64) for array in actions)
    done = fixed.execute(base, residuals(base, action, C), Measures(alignment=np.full(B, -1.0)))
    np.testing.assert_allclose(done.plan, (1 - low) * base + low * action, rtol=0, atol=1e-9)
    assert all((scale == low).all() for scale in done.scales.values())


def test_known_instructions_pass_and_unknown_ones_are_refused(calibration):
    adapter = SigmaTelepathyAdapter(calibration=calibration)
    random = np.random.default_rng(9)
    measures = {
        "alignment": random.uniform(0.6, 0.9, 200),
        "hold": random.normal(0, 0.3, (200, D)),
        "feature_distance": np.full(200, calibration["feature_distance_q95"]),
        "telepathy_factors": np.full((200, 1, 1), calibration["tau_l2_median"]),
    }
    base, residual = random.normal(0, 0.3, (200, T, D)), random.normal(0, 0.1, (200, T, D))
    known = adapter.scale(adapter.risk(base, residual, Measures(**measures), span="trajectory"))
    assert known.mean() > 0.95
    distance = np.full(200, 2 * adapter.text_tolerance)
    unknown = adapter.scale(
        adapter.risk(base, residual, Measures(**measures, text_distance=distance), span="trajectory")
    )
    assert unknown.max() < 0.05


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_scale": 0.6, "max_scale": 0.5},
        {"max_scale": 1.1},
        {"min_scale": float("nan")},
        {"risk_temperature": 0.0},
        {"text_tolerance": -1.0},
        {"weights": {"sise": 1.0}},
        {"weights": {"size": -1.0}},
    ],
)
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"scale|risk_temperature|weights"):
        SigmaTelepathyAdapter(**arguments)


def test_shapes_and_spans_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        SigmaTelepathyAdapter().risk(np.zeros((B, D)), np.zeros((B, 1, D)))
    with pytest.raises(ValueError, match="span"):
        SigmaTelepathyAdapter().risk(np.zeros((B, D)), np.zeros((B, D)), span="plan")


def test_feature_distance_matches_a_loop_and_leaves_the_own_episode_out():
    random = np.random.default_rng(1)
    features, episodes = random.normal(size=(9, 5)), np.repeat([0, 1, 2], 3)
    deviation = features.std(axis=0)
    expected = []
    for row, episode in zip(features, episodes, strict=True):
        others = features[episodes != episode]
        expected.append(np.sort(np.sqrt((((row - others) / deviation) ** 2).mean(axis=1)))[1])
    found = feature_distance(features, features, episodes=episodes, calibration_episodes=episodes, neighbours=2)
    np.testing.assert_allclose(found, expected)
    assert np.allclose(feature_distance(features, features, neighbours=1), 0.0)
    far = feature_distance(features + 50, features)
    assert far.min() > found.max()


def test_feature_distance_is_the_same_in_blocks_and_not_finite_where_the_features_are(monkeypatch):
    features = np.random.default_rng(4).normal(size=(7, 3))
    whole = feature_distance(features, features[:5])
    monkeypatch.setattr("sigma.policy.adapter.measures.BLOCK", 2)
    assert np.array_equal(feature_distance(features, features[:5]), whole)
    features[6, 1] = np.nan
    assert np.isfinite(feature_distance(features, features[:5])).tolist() == [True] * 6 + [False]


def test_feature_distance_needs_a_second_episode():
    features = np.zeros((4, 2))
    with pytest.raises(SigmaError, match=r"2 validation episodes"):
        feature_distance(features, features, episodes=np.zeros(4), calibration_episodes=np.zeros(4))


def test_text_distance_is_zero_for_a_known_text_whatever_its_length():
    texts = np.random.default_rng(2).normal(size=(3, 16))
    assert np.allclose(text_distance(texts * 7.0, texts), 0.0, atol=1e-12)
    assert text_distance(-texts[:1], texts[:1])[0] == pytest.approx(2.0)


def test_calibration_files_come_back_and_an_altered_reference_is_refused(tmp_path, calibration):
    path = tmp_path / "models" / "adapter_calibration.json"
    reference = reference_set(np.random.default_rng(0).normal(size=(3000, 4)), np.arange(3000), np.ones((2, 4)))
    assert len(reference["features"]) == 1024
    write_calibration(path, calibration, reference)
    assert {key: value for key, value in read_calibration(path).items() if key != "reference"} == calibration
    found = read_reference(path)
    assert np.array_equal(found["features"], reference["features"])
    arrays = path.with_suffix(".safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(SigmaError, match=r"adapter_calibration\.safetensors"):
        read_reference(path)


def test_calibration_of_another_format_is_refused(tmp_path):
    path = tmp_path / "adapter_calibration.json"
    path.write_text('{"format_version": 99}')
    with pytest.raises(SigmaError, match="format_version: found 99; legal: 1"):
        read_calibration(path)


def test_calibration_refuses_numbers_that_are_not_finite():
    with pytest.raises(SigmaError, match="vector residual"):
        calibrate(
            base_action=np.zeros((2, T, D)),
            hold=np.zeros((2, D)),
            corrections={"vector": np.full((2, 1, D), np.nan), "chunk": np.zeros((2, C, D))},
            tau_l2=np.ones(2),
            alignment=np.ones(2),
            feature_distance=np.ones(2),
            episodes=np.arange(2),
            instructions=[],
        )


def test_importing_the_adapter_does_not_import_torch():
    code = "import sys, sigma.policy.adapter.adapter; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
