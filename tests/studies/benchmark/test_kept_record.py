"""Ratios, spreads and verdicts, held against arithmetic of another kind."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma.studies.benchmark.catalogue import CATALOGUE, PARTS, Figure, Target, figures_of
from sigma.studies.benchmark.comparison import markdown, number, profiles, rows, splits, summary_line
from sigma.studies.benchmark.kept_record import Measured, build, rounded

POSITIVE = st.floats(1e-6, 1e6)
PLAIN = Figure("statistics", "ours", "theirs", "s", Target("at_most", 0.8))


def test_a_record_has_both_sides_and_the_ratio_of_each_round():
    record = build(PLAIN, Measured([1.0, 3.0, 2.0], [2.0, 3.0, 8.0], {"split": {"a": 1.0}}, {"batch": 4}))
    assert record["ratio"] == {"median": 0.5, "min": 0.25, "max": 1.0, "rounds": [0.5, 1.0, 0.25]}
    assert record["own"] == {"median": 2.0, "min": 1.0, "max": 3.0, "split": {"a": 1.0}}
    assert record["peer_value"] == {"median": 3.0, "min": 2.0, "max": 8.0, "batch": 4}
    assert (record["repetitions"], record["target"], record["met"]) == (3, {"at_most": 0.8, "of": "ratio"}, True)
    assert (record["peer"], record["unit"], record["part"]) == ("theirs", "s", "statistics")


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=9))
def test_ratios_are_ours_over_theirs_round_by_round(pairs):
    record = build(PLAIN, Measured(*map(list, zip(*pairs, strict=True))))
    exact = sorted(float(Fraction(own) / Fraction(peer)) for own, peer in pairs)
    assert record["ratio"]["median"] == pytest.approx(np.median(exact), rel=1e-5)
    assert (record["ratio"]["min"], record["ratio"]["max"]) == pytest.approx((exact[0], exact[-1]), rel=1e-5)
    assert record["ratio"]["min"] <= record["ratio"]["median"] <= record["ratio"]["max"]


@pytest.mark.parametrize(
    ("target", "own", "met"),
    [
        (Target("at_least", 20), 200.0, True),
        (Target("at_least", 20), 199.0, False),
        (Target("at_most", 20), 200.0, True),
        (Target("at_most", 20), 201.0, False),
        (Target("at_most", 20, "own"), 20.0, True),
        (Target("at_most", 20, "own"), 20.1, False),
        (None, 1.0, None),
    ],
)
def test_a_target_is_held_against_the_ratio_or_against_our_own_value(target, own, met):
    record = build(Figure("statistics", "ours", "theirs", "s", target), Measured([own] * 5, [10.0] * 5))
    assert record["met"] is met


@pytest.mark.parametrize(("own", "peer"), [([], []), ([1.0], [1.0, 2.0])])
def test_sides_of_different_length_make_no_ratio(own, peer):
    with pytest.raises(ValueError, match="as many of each are needed"):
        build(PLAIN, Measured(own, peer))


def test_numbers_are_rounded_at_every_depth_and_counts_stay_whole():
    assert rounded({"a": [1.23456789, (2,)], 3: {"b": True, "c": None}}) == {
        "a": [1.23457, [2]],
        "3": {"b": True, "c": None},
    }


def records():
    met = build(PLAIN, Measured([1.0], [2.0], {"split": {"quick": 1.0, "slow": 3.0}})) | {"other_programs": 0.1}
    missed = build(CATALOGUE["windowing"], Measured([1.0], [2.0])) | {"other_programs": 0.0}
    left = {"part": "startup", "title": "an <experiment>", "peer": "p", "not_measured": "no pipeline"}
    return {"windowing": missed, "statistics": met, "repro": left}


def test_the_table_shows_values_spread_and_verdict_in_the_catalogues_order():
    found = rows(records())
    assert [row[0] for row in found] == [records()[name]["title"] for name in ("windowing", "statistics", "repro")]
    assert found[0][2:] == ("1 video frames/s", "2 video frames/s", "0.5 (0.5 to 0.5)", "≥ 0.7: missed")
    assert found[1][-1] == "≤ 0.8: met" and found[2][-2:] == ("not measured: no pipeline", "–")
    assert markdown(records()).count("\n") == 4 and "| ≥ 0.7: missed |" in markdown(records())
    assert splits(records()) == [("statistics", "ours", [("slow", 3.0, 0.75), ("quick", 1.0, 0.25)])]


def test_the_profile_of_a_missed_target_has_the_shares_of_its_parts():
    own, peer = {"split": {"<slow>": 3.0, "none": 0.0, "quick": 1.0}}, {"split": {"a": 1.0, "b": 1.0}}
    slow = build(CATALOGUE["decision"], Measured([4.0], [2.0], own, peer))
    assert profiles(records() | {"decision": slow}).splitlines() == [
        "- `windowing`, 0.5 (≥ 0.7: missed). One command, no parts.",
        "- `decision`, 2 (≤ 1.05: missed). ours: <slow> 75 %, quick 25 %; the peer's: a 50 %, b 50 %.",
    ]
    assert profiles({"statistics": records()["statistics"]}) == "None."


def test_the_line_counts_targets_and_names_the_missed_and_a_busy_machine():
    line = summary_line(records())
    assert line == "2 figures, 1 of 2 targets met; missed: windowing; 1 not measured"
    busy = {name: record | {"other_programs": 1.26} for name, record in records().items()}
    assert summary_line(busy).endswith("; taken while other programs had up to 1.3 cores busy")


@pytest.mark.parametrize(
    ("value", "text"), [(0.00123456, "0.00123"), (12345.6, "12346"), (1.5, "1.5"), (999.9, "1000")]
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize("part", PARTS)
def test_a_part_measures_just_its_figures(part):
    from importlib import import_module

    module = import_module(f"sigma.studies.benchmark.time_{part}")
    assert list(module.FIGURES) == figures_of(part)
    assert all(function.__doc__ for function in module.FIGURES.values())


def test_targets_are_those_that_were_set():
    expected = {
        "loading": (20, "at_least"),
        "windowing": (0.7, "at_least"),
        "windowing_memory": (1.1, "at_most"),
        "training_step_flow": (0.8, "at_most"),
        "decision": (1.05, "at_most"),
        "evaluation_base": (4, "at_least"),
        "help": (1.5, "at_most"),
        "repro": (5, "at_most"),
        "adapter_experiment": (15, "at_most"),
    }
    assert {name: (CATALOGUE[name].target.value, CATALOGUE[name].target.bound) for name in expected} == expected
