"""The adapter's promises, on NumPy and torch alike."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sigma.policy.adapter.adapter import AGREEMENT, BEFORE, SIZE, SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import calibrate, read_calibration, write_calibration
from sigma.policy.adapter.words import Instructions
from sigma.shared.errors import SigmaError

B, T, D = 3, 6, 2
FINITE = st.floats(-4, 4, width=32)
ORDINARY = 400
TEXT = "put the cube in the red box"


def _arrays(shape):
    return hnp.arrays(np.float32, shape, elements=FINITE)


ACTIONS = st.tuples(_arrays((B, T, D)), _arrays((B, T, D)))
SCORES = st.lists(st.floats(0, 5, width=32), min_size=B, max_size=B).map(lambda row: np.array(row, np.float32))


def _calibrate(random, *, windows=ORDINARY, episodes=8, **changes):
    arguments = {
        "parts": {term: random.uniform(size=(windows, 2)) for term in ("picture", "change", "state", "tracking")},
        "scores": {term: random.uniform(size=windows) for term in ("tau", "alignment", AGREEMENT, SIZE)},
        "tau_centre": 2.0,
        "reference": {"views_mean": np.zeros((2, 3))},
        "instructions": Instructions([TEXT], [], np.ones((1, 4)), np.empty((0, 4))),
        "texts": ([TEXT], []),
        "episodes": np.arange(windows) % episodes,
    }
    return calibrate(**{**arguments, **changes})


CALIBRATION = _calibrate(np.random.default_rng(3))
TERMS = [term for term in (*BEFORE, AGREEMENT) if term in CALIBRATION.ordinary]


def _adapter(*bounds, **settings):
    return SigmaTelepathyAdapter(*bounds, calibration=CALIBRATION, **settings)


def _measures(value):
    """Every term at ``value``, of which 1 is the 95 % quantile, but the instruction trained."""
    return {term: np.full(B, 0.0 if term in ("meaning", "wording") else value) for term in TERMS}


@settings(deadline=None, max_examples=60)
@given(ACTIONS, SCORES, st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 5))
def test_scale_lies_between_its_bounds_and_the_plan_is_finite(actions, scores, first, second, temperature):
    low, high = sorted((first, second))
    done = _adapter(low, high, risk_temperature=temperature).execute(*actions, {"picture": scores})
    assert (done.scale >= np.float32(low)).all() and (done.scale <= np.float32(high)).all()
    assert np.isfinite(done.plan).all() and done.plan.shape == (B, T, D)


@settings(deadline=None, max_examples=60)
@given(SCORES, st.floats(0, 1e6), st.sampled_from([*TERMS, SIZE]))
def test_scale_does_not_rise_as_a_score_rises(scores, more, term):
    adapter = _adapter()
    low, high = (adapter.risk({term: scores.astype(np.float64) + rise}) for rise in (0.0, more))
    assert np.isfinite(high).all() and (high >= low).all() and (adapter.scale(high) <= adapter.scale(low)).all()


def test_ordinary_decisions_close_the_gate_as_often_as_the_false_alarm_rate_says():
    random = np.random.default_rng(11)
    for rate in (0.05, 0.2):
        drawn = {term: random.uniform(size=(20_000, 2)).max(axis=1) / 0.95 for term in ("picture", "state")}
        calibration = _calibrate(
            random,
            windows=4000,
            parts={term: random.uniform(size=(4000, 2)) for term in drawn},
            scores={},
            instructions=Instructions([], [], np.empty((0, 4)), np.empty((0, 4))),
        )
        del calibration.ordinary["meaning"], calibration.ordinary["wording"]
        adapter = SigmaTelepathyAdapter(false_alarms=rate, calibration=calibration)
        units = [calibration.units[term] for term in drawn]
        assert all(unit.min() > 0.94 and unit.max() < 0.96 for unit in units)
        closed = (adapter.decide(drawn)[1] < 0.5).mean()
        assert 0.7 * rate < closed < 1.15 * rate, "Bonferroni over two independent terms is nearly exact"


def test_what_could_not_be_measured_is_no_surprise_and_what_is_no_number_closes_the_gate():
    adapter = _adapter(0.1, 0.9)
    for term in TERMS:
        for value, expected in ((-np.inf, 0.9), (np.nan, 0.1), (np.inf, 0.1)):
            assert adapter.decide({term: np.full(B, value)})[1] == pytest.approx(expected), (term, value)


@settings(deadline=None, max_examples=60)
@given(ACTIONS, st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, B - 1), st.integers(0, T - 1))
def test_an_action_that_is_not_finite_counts_as_the_bases(actions, value, row, step):
    base, action = actions[0], actions[1].copy()
    action[row, step, 0] = value
    done = _adapter(0.2, 1.0).execute(base, action, _measures(0.5))
    assert np.isfinite(done.plan).all()
    assert np.array_equal(done.plan[row], base[row])
    assert done.risk[row] == 0


ANYTHING = hnp.arrays(np.float32, (B, T, D), elements=st.floats(width=32))


@settings(deadline=None, max_examples=60)
@given(ACTIONS, ANYTHING, st.floats(width=32))
def test_at_scale_zero_the_base_is_executed_to_the_bit_whatever_is_beside_it(actions, action, value):
    base = actions[0]
    base[0, 0, 0] = np.float32(-0.0)
    closed = _adapter().execute(base, action, _measures(1e6))
    assert closed.plan.tobytes() == base.tobytes()
    off = SigmaTelepathyAdapter(0.0, 0.0, calibration=CALIBRATION)
    assert off.execute(base, action, _measures(value)).plan.tobytes() == base.tobytes()
    assert off.execute(torch.from_numpy(base), torch.from_numpy(action), {}).plan.numpy().tobytes() == base.tobytes()


@settings(deadline=None, max_examples=30)
@given(ACTIONS)
def test_at_scale_one_the_adapted_action_is_executed_to_the_bit(actions):
    done = _adapter().execute(*actions, _measures(0.5))
    assert (done.scale == 1).all() and done.plan.tobytes() == actions[1].tobytes()


@settings(deadline=None, max_examples=40)
@given(ACTIONS, SCORES, SCORES)
def test_numpy_and_torch_agree(actions, first, second):
    measures = {"picture": first, AGREEMENT: second}
    one = _adapter().execute(*actions, measures)
    tensors = {term: torch.from_numpy(score) for term, score in measures.items()}
    two = _adapter().execute(*map(torch.from_numpy, actions), tensors)
    np.testing.assert_allclose(one.scale, two.scale.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(one.plan, two.plan.numpy(), rtol=1e-3, atol=2e-3)


def test_what_is_not_integrated_is_not_heard():
    """A plan that is not made cannot contradict another, and a residual that is not made has no size."""
    adapter = _adapter()
    shut = adapter.decide({"picture": np.full(B, 50.0)})
    assert (shut[1] == 0).all()
    for silent in (AGREEMENT, SIZE):
        np.testing.assert_array_equal(adapter.decide({"picture": np.full(B, 50.0), silent: np.full(B, 1e9)}), shut)
    assert (adapter.decide({"picture": np.zeros(B), SIZE: np.full(B, 1e9)})[1] == 1).all()
    assert (adapter.decide({"picture": np.zeros(B), AGREEMENT: np.full(B, 1e9)})[1] == 0).all()
    doubtful = {"picture": np.full(B, CALIBRATION.ordinary["picture"].scores[-1] + 0.05)}
    assert 0 < adapter.decide(doubtful)[1][0] < 1
    measures = doubtful | {SIZE: np.full(B, 1e9)}
    risk, scale = adapter.decide(measures)
    assert (scale == 0).all()
    assert (adapter.heard(measures, risk)[SIZE] > adapter.heard(measures, risk)["picture"]).all()
    silent = {"picture": np.full(B, 50.0), SIZE: np.full(B, 1e9)}
    heard = adapter.heard(silent, adapter.decide(silent)[0])
    assert (heard[SIZE] == 0).all() and (heard["picture"] > 0).all(), "the reason told is one that had a say"


def test_held_back_by_more_than_half_of_what_it_may():
    scales = np.array([0.0, 0.19, 0.21, 0.4])
    assert _adapter(0.0, 0.4).held_back(scales).tolist() == [True, True, False, False]
    assert not _adapter(0.2, 0.2).held_back(np.array([0.2])).any(), "a scale that is fixed holds nothing back"


def test_the_card_s_call_works_without_calibration():
    adapter = SigmaTelepathyAdapter(min_scale=0.0, max_scale=1.0, risk_temperature=1.0)
    base, residual = torch.zeros(2, D), torch.full((2, D), 0.05)
    blended = adapter(base_action_vector=base, telepathy_residual=residual, telepathy_factors=torch.ones(2, 8, 16))
    assert blended.shape == base.shape and (blended / residual > 0.9).all()
    huge = adapter(base_action_vector=base, telepathy_residual=residual * 1e3, alignment=torch.full((2,), 0.9))
    assert torch.equal(huge, base)
    half = adapter(base_action_vector=base.bfloat16(), telepathy_residual=residual.bfloat16())
    assert half.dtype == torch.bfloat16


@settings(deadline=None, max_examples=60)
@given(ACTIONS, st.floats(0, 1), st.floats(0, 1))
def test_bounds_that_leave_no_choice_fix_the_scale_whatever_is_measured(actions, first, second):
    low, high = sorted((first, second))
    assert (_adapter(low, high).fixed_scale is None) is (low < high)
    base, action = (array.astype(np.float64) for array in actions)
    done = _adapter(low, low).execute(base, action, _measures(1e9))
    np.testing.assert_allclose(done.plan, (1 - low) * base + low * action, rtol=0, atol=1e-9)
    assert (done.scale == low).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_scale": 0.6, "max_scale": 0.5},
        {"max_scale": 1.1},
        {"min_scale": float("nan")},
        {"risk_temperature": 0.0},
        {"false_alarms": 0.0},
        {"false_alarms": 1.0},
    ],
)
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=r"scale|risk_temperature|false_alarms"):
        SigmaTelepathyAdapter(**arguments)


def test_a_term_that_is_not_calibrated_is_refused():
    with pytest.raises(ValueError, match="'picture': not among the calibrated terms tau, alignment, size"):
        SigmaTelepathyAdapter().risk({"picture": np.zeros(B)})


def test_calibration_files_come_back_and_altered_arrays_are_refused(tmp_path):
    path = tmp_path / "models" / "adapter_calibration.json"
    write_calibration(path, CALIBRATION, tmp_path)
    found = read_calibration(path)
    assert CALIBRATION.record.items() <= found.record.items()
    measures = _measures(1.07)
    np.testing.assert_array_equal(
        SigmaTelepathyAdapter(calibration=found).risk(measures), _adapter().risk(measures), "to the last digit"
    )
    arrays = path.with_suffix(".safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(SigmaError, match=r"adapter_calibration\.safetensors: missing or altered"):
        read_calibration(path)


def test_calibration_of_other_weights_is_refused(tmp_path):
    path, weights = tmp_path / "adapter_calibration.json", tmp_path / "sigma" / "heads.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    write_calibration(path, CALIBRATION, weights.parent)
    (weights.parent / "config.json").write_text("{}")
    read_calibration(path, weights.parent)
    weights.write_bytes(b"other")
    with pytest.raises(SigmaError, match=r"calibration\.json: was made with other weights than those in .*sigma"):
        read_calibration(path, weights.parent)


def test_calibration_of_another_format_is_refused(tmp_path):
    path = tmp_path / "adapter_calibration.json"
    path.write_text('{"format_version": 1}')
    with pytest.raises(SigmaError, match="format_version: found 1; legal: 4"):
        read_calibration(path)


def test_an_instruction_that_differs_in_case_stops_or_spaces_is_read_as_the_trained_one():
    for text in ("Put the cube in the red box.", "PUT THE CUBE  IN THE RED BOX", " put the cube in the red box !"):
        assert CALIBRATION.trained_text(text) == TEXT
    assert CALIBRATION.trained_text("Put the cube in the blue box.") == "Put the cube in the blue box."


def test_a_term_that_no_ordinary_decision_has_judges_nothing():
    random = np.random.default_rng(5)
    scores = {term: random.uniform(size=ORDINARY) for term in ("tau", "alignment", SIZE)}
    calibration = _calibrate(random, scores=scores | {AGREEMENT: np.full(ORDINARY, -np.inf)})
    adapter = SigmaTelepathyAdapter(calibration=calibration)
    np.testing.assert_allclose(adapter.surprises({AGREEMENT: np.array([0.3, 1e6])})[AGREEMENT], 0.0, atol=1e-12)
    assert calibration.record["terms"][AGREEMENT]["ordinary"] == 0


def test_what_cannot_be_calibrated_on_is_refused():
    random = np.random.default_rng(0)
    with pytest.raises(SigmaError, match=r"found 1 validation episode; legal: at least 2 .*window\.validation"):
        _calibrate(random, episodes=1)
    with pytest.raises(SigmaError, match="the term tau of a validation window is not finite"):
        _calibrate(random, scores={"tau": np.full(3, np.nan)})


def test_importing_the_adapter_does_not_import_torch():
    code = "import sys, sigma.policy.adapter.adapter; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
