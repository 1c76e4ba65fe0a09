"""The evidence page's table of outcomes on made-up results: better, worse, not shown and not measured."""

import pytest

from sigma.studies.evidence.outcomes import closed_outcome, losses, outcomes, signed
from sigma.studies.rollout.rollout_results import ClosedLoop

ROWS = ("plain_lora_sample", "plain_lora_zero_noise", "plain_lora_mean", "residual_mlp", "direct")
BETTER, OPEN, WORSE = (-0.03, -0.04, -0.02), (-0.01, -0.03, 0.01), (0.02, 0.01, 0.03)


def results(rows=ROWS, episodes=50, **changes):
    """Test results in which Sigma is better everywhere (its error 0.17, others' 0.20) but for ``changes``: a row, or
    ``row__critical``, to (delta, lo, hi)."""
    table = {"sigma": {"confirmatory": True, "mse_plan": {"mean": 0.17}, "mse_plan_critical": {"mean": 0.17}}}
    for row in rows:
        table[row] = {"confirmatory": True}
        for claim, key in (("mse_plan", row), ("mse_plan_critical", f"{row}__critical")):
            delta, low, high = changes.get(key, BETTER)
            table[row][claim] = {"mean": 0.2, "delta": delta, "delta_lo": low, "delta_hi": high, "p": 0.01}
    return {"episodes": episodes, "critical_episodes": episodes, "rows": table}


def loop(**paired):
    """A closed loop in which the target was played against ``paired``."""
    return ClosedLoop({"pick_place": {"arms": {}, "paired": paired}}, {}, {})


def pair(difference, p):
    return {"difference": difference, "low": difference - 0.1, "high": difference + 0.1, "p": p}


def found(*arguments):
    return {(row.opponent, row.measure.split(",")[0]): row for row in outcomes(*arguments, "pick_place")}


def test_every_confirmatory_row_stands_under_every_measure_but_sigmas_other_branch():
    rows = outcomes(results(rows=(*ROWS, "sigma_frozen"), sigma_frozen=WORSE), loop(), "pick_place")
    assert len(rows) == 3 * len(ROWS) and not any("Sigma" in row.opponent for row in rows)
    assert [row.outcome for row in rows] == 10 * ["better"] + 5 * ["not measured"]
    assert len(outcomes(results(), None, "pick_place")) == 2 * len(ROWS), "no row on success without a closed loop"


@pytest.mark.parametrize(("change", "outcome"), [(BETTER, "better"), (OPEN, "not shown"), (WORSE, "worse")])
def test_offline_the_interval_decides(change, outcome):
    row = found(results(direct=change), None)["direct regressor", "mse_plan"]
    assert row.outcome == outcome
    assert (row.difference, row.low, row.high) == pytest.approx([500 * value for value in change])


@pytest.mark.parametrize(
    ("difference", "p", "outcome"),
    [(0.2, 0.001, "better"), (0.2, 0.06, "not shown"), (-0.2, 0.001, "worse"), (-0.2, 0.06, "not shown")],
)
def test_in_closed_loop_the_exact_test_decides(difference, p, outcome):
    row = found(results(), loop(direct=pair(difference, p)))["direct regressor", "success on pick_place"]
    assert (row.outcome, row.difference, row.low, row.p) == (outcome, 100 * difference, 100 * (difference - 0.1), p)


def test_winning_needs_more_successes_and_a_small_p():
    assert [closed_outcome(pair(gain, 0.049)) for gain in (0.1, -0.1)] == ["better", "worse"]
    assert [closed_outcome(pair(gain, 0.05)) for gain in (0.1, -0.1)] == ["not shown", "not shown"]


def test_an_arm_that_was_not_trained_or_played_is_named_and_never_counted_as_beaten():
    table = found(results(rows=ROWS[:-1]), ClosedLoop({}, {}, {}))
    assert table["direct regressor", "mse_plan"].outcome == "not measured"
    assert table["residual MLP", "success on pick_place"].outcome == "not measured"


def test_one_episode_shows_nothing():
    assert {row.outcome for row in outcomes(results(episodes=1), None, "pick_place")} == {"not shown"}


@pytest.mark.parametrize(("success", "kept"), [(0.77, True), (0.765, False)])
def test_a_loss_of_just_the_margin_is_within_it(success, kept):
    task = {"arms": {"sigma": {"success": success}, "base": {"success": 0.8}}, "paired": {}}
    tasks = {"lift": task, "pick_place": task}
    assert losses(tasks, "pick_place", "sigma", 3.0) == {"lift": (pytest.approx(100 * (success - 0.8)), None, kept)}


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (1.25, "+1.2"), (-3.0, "−3.0"), (12.0, "+12.0")]
)
def test_numbers_are_signed_unless_they_round_to_zero(value, text):
    assert signed(value) == text
