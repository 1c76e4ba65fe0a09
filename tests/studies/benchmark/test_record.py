"""Ratios, spreads and verdicts, compared with arithmetic of another kind."""

from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma.studies.benchmark.catalogue import CATALOGUE, PARTS, Figure, Target, figures_of
from sigma.studies.benchmark.comparison import number, rows, summary_line
from sigma.studies.benchmark.measure import Measured
from sigma.studies.benchmark.record import build

POSITIVE = st.floats(1e-6, 1e6)
PLAIN = Figure("startup", "ours", "theirs", "s", Target("at_most", 0.8))


def test_a_record_has_both_sides_and_the_ratio_of_each_round():
    record = build(PLAIN, Measured([1.0, 3.0, 2.0], [2.0, 3.0, 8.0], {"trained": 1}, {"batch": 4}))
    assert record["ratio"] == {"median": 0.5, "iqr": 0.375, "min": 0.25, "max": 1.0, "rounds": [0.5, 1.0, 0.25]}
    assert record["own"] == {"median": 2.0, "iqr": 1.0, "trained": 1}
    assert record["peer_value"] == {"median": 3.0, "iqr": 3.0, "batch": 4}
    assert (record["repetitions"], record["target"], record["met"]) == (3, {"at_most": 0.8, "of": "ratio"}, True)
    assert (record["peer"], record["unit"], record["part"]) == ("theirs", "s", "startup")


@pytest.mark.parametrize("rate", [False, True])
@given(pairs=st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=9))
def test_ratios_are_ours_over_theirs_round_by_round(rate, pairs):
    own, peer = map(list, zip(*pairs, strict=True))
    record = build(Figure("startup", "ours", "theirs", "windows/s" if rate else "s"), Measured(own, peer))
    seconds = [Fraction(ours) / Fraction(theirs) for ours, theirs in pairs]
    exact = sorted(float(1 / ratio if rate else ratio) for ratio in seconds)
    assert record["ratio"]["median"] == pytest.approx(np.median(exact), rel=1e-5)
    assert (record["ratio"]["min"], record["ratio"]["max"]) == pytest.approx((exact[0], exact[-1]), rel=1e-5)
    assert record["own"]["median"] == pytest.approx(np.median(1 / np.array(own) if rate else own), rel=1e-5)


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
    record = build(Figure("startup", "ours", "theirs", "s", target), Measured([own] * 5, [10.0] * 5))
    assert record["met"] is met


@pytest.mark.parametrize(("own", "peer"), [([], []), ([1.0], [1.0, 2.0])])
def test_sides_of_different_length_make_no_ratio(own, peer):
    with pytest.raises(ValueError, match="as many of each are needed"):
        build(PLAIN, Measured(own, peer))


def test_numbers_are_rounded_at_every_depth_and_counts_stay_whole():
    record = build(PLAIN, Measured([1.0], [3.0], {"a": [1.23456789, (2,)], "b": {"c": True, "d": None}}))
    assert (record["own"]["a"], record["own"]["b"]) == ([1.23457, [2]], {"c": True, "d": None})
    assert record["ratio"]["rounds"] == [0.333333]


def records():
    met = build(CATALOGUE["help"], Measured([1.0], [2.0])) | {"other_programs": 0.1}
    missed = build(CATALOGUE["loading"], Measured([1.0], [2.0])) | {"other_programs": 0.0}
    left = {"part": "startup", "title": "an <experiment>", "peer": "p", "not_measured": "no pipeline"}
    return {"repro": left, "help": met, "loading": missed, "of_a_former_version": met}


def test_the_table_shows_values_spread_and_verdict_in_the_catalogues_order():
    table = rows(records())
    assert [row[0] for row in table] == [records()[name]["title"] for name in ("loading", "help", "repro")]
    assert table[0][2:] == ("1 windows/s", "0.5 windows/s", "2 (2 to 2)", "≥ 20: missed")
    assert table[1][-1] == "≤ 1.5: met" and table[2][-2:] == ("not measured: no pipeline", "–")


def test_the_table_names_the_peers_backend_and_those_that_did_not_load():
    record = records()["loading"]
    record["peer_value"] |= {"video_backend": "pyav", "backends_that_fail": {"torchcodec": "no FFmpeg"}}
    assert rows({"loading": record})[0][1].endswith("faster video backend (pyav; torchcodec did not load)")


def test_the_line_counts_targets_and_names_the_missed_and_a_busy_machine():
    assert summary_line(records()) == "2 figures, 1 of 2 targets met; missed: loading; 1 not measured"
    busy = {name: record | {"other_programs": 1.26} for name, record in records().items()}
    assert summary_line(busy).endswith("; taken while other programs had up to 1.3 cores busy")


@pytest.mark.parametrize(
    ("value", "text"), [(0.00123456, "0.00123"), (12345.6, "12346"), (1.5, "1.5"), (999.9, "1000")]
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize("part", PARTS)
def test_a_part_measures_just_its_figures(part):
    module = import_module(f"sigma.studies.benchmark.time_{part}")
    functions = {name.removeprefix("measure_"): value for name, value in vars(module).items() if "measure_" in name}
    assert set(functions) == set(figures_of(part))
    assert all(function.__doc__ for function in functions.values())
