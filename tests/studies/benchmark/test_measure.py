"""Sides are measured in turn, once a round, and other programs' cores are counted apart."""

import subprocess
import sys
import time
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma.studies.benchmark import machine, measure
from sigma.studies.benchmark.measure import Side, compare, in_turn, seconds_each
from sigma.studies.benchmark.settings import BenchmarkParameters


@given(st.integers(1, 6))
def test_every_side_is_measured_once_a_round_and_the_order_turns(rounds):
    called = []

    def side(name):
        def measured():
            called.append(name)
            return float(len(called))

        return measured

    with patch.object(measure.gc, "collect") as collect:  # takes long in a process that holds as much as this one
        own, peer = in_turn(side("own"), side("peer"), rounds)
    assert collect.call_count == len(called), "no side pays for what another one left"
    assert called == (["own", "peer", "peer", "own"] * rounds)[: 2 * rounds]
    assert len(own) == len(peer) == rounds and sorted(own + peer) == list(range(1, 2 * rounds + 1))


def test_a_side_counts_what_one_call_does_and_once_means_once(monkeypatch):
    monkeypatch.setattr(measure.gc, "collect", lambda: None)  # takes long in a process that holds as much as this one
    calls = []
    settings = BenchmarkParameters.model_construct(repetitions=3, seconds=0.001)
    slow = Side(lambda: (calls.append(1), time.sleep(0.02)), amount=4, details={"windows": 4})
    measured = compare(slow, Side(lambda: time.sleep(0.01)), settings, once=True)
    assert len(calls) == 3 and measured.own_details == {"windows": 4}
    assert min(measured.own) >= 0.005 and min(measured.peer) >= 0.01
    compare(slow, Side(lambda: None), settings)
    assert len(calls) > 6, "warmed up before it is timed"


def test_quick_work_runs_until_the_time_is_over_with_the_threads_that_were_set():
    import torch

    threads, calls = torch.get_num_threads(), []
    seconds = seconds_each(lambda: (calls.append(torch.get_num_threads()), time.sleep(0.002)), 0.05)
    assert 0.002 <= seconds < 0.05 and len(calls) > 5 and set(calls) == {threads}


def test_cores_of_other_programs_are_the_busy_ones_less_our_own(monkeypatch):
    busy, own, now = iter([50.0, 58.0]), iter([7.0, 9.0]), iter([0.0, 4.0])
    monkeypatch.setattr(machine, "_all_seconds", lambda: next(busy))
    monkeypatch.setattr(machine, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(now))
    assert machine.OtherPrograms().cores() == pytest.approx(1.5), "8 s busy, 2 of them ours, in 4 s"


@pytest.mark.processes
def test_own_work_and_that_of_ended_children_is_not_called_others():
    before = machine._own_seconds()
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert machine._own_seconds() - before >= 0.45
