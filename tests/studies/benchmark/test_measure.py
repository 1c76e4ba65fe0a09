"""Sides are measured in turn, and every second of a run is counted for one part, once."""

import time
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma.studies.benchmark import measure, others
from sigma.studies.benchmark.measure import Effort, Stopwatch, alternate, seconds_each, split


@given(st.integers(1, 6), st.integers(0, 3), st.integers(2, 4))
def test_every_side_is_measured_once_a_round_and_the_order_turns(repetitions, warm_up, count):
    called = []

    def side(name):
        def measured():
            called.append(name)
            return float(len(called))

        return measured

    names = [f"side {index}" for index in range(count)]
    with patch.object(measure.gc, "collect") as collect:  # takes long in a process that holds as much as this one
        values = alternate({name: side(name) for name in names}, Effort(repetitions, warm_up))
    assert collect.call_count == len(called), "no side pays for what another one left"
    rounds = [called[start : start + count] for start in range(0, len(called), count)]
    assert len(rounds) == repetitions + warm_up
    assert all(one == (names if turn % 2 == 0 else names[::-1]) for turn, one in enumerate(rounds))
    # A value is the number of the call that gave it: those of the warm-up are not among them.
    assert all(len(values[name]) == repetitions and min(values[name]) > warm_up * count for name in names)


@pytest.fixture
def clock(monkeypatch):
    """Time passes only where a test says so."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

        def advance(self, seconds):
            self.now += seconds

    found = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", found)
    return found


class Work:
    """0.5 s of its own, 2 s in ``inner``, which calls ``deep`` for 1 s more; 3 values, each 0.25 s in the making."""

    def __init__(self, clock):
        self.clock = clock

    def whole(self):
        self.clock.advance(0.5)
        self.inner()
        for _ in self.values():
            self.clock.advance(10)

    def inner(self):
        self.clock.advance(2)
        self.deep()

    def deep(self):
        self.clock.advance(1)

    def values(self):
        for value in range(3):
            self.clock.advance(0.25)
            yield value


def test_parts_add_up_and_an_inner_part_is_not_counted_twice(clock):
    work = Work(clock)
    places = [(work, "inner", "outer"), (Work, "deep", "inside"), (work, "values", "making"), (work, "unused", "never")]
    work.unused = lambda: None
    parts = split(work.whole, places, "rest", calls=2)
    assert parts == pytest.approx({"outer": 2, "inside": 1, "making": 0.75, "never": 0, "rest": 30.5})
    assert sum(parts.values()) == pytest.approx(34.25)


def test_what_was_watched_is_put_back_even_after_a_fault(clock):
    work, plain = Work(clock), Work.deep
    with pytest.raises(ZeroDivisionError), Stopwatch().watching((work, "inner", "a"), (Work, "deep", "b")):
        work.inner()
        assert Work.deep is not plain
        raise ZeroDivisionError
    assert Work.deep is plain and "inner" not in vars(work)


def test_a_part_may_be_named_by_the_arguments(clock):
    class Named:
        def act(self, *, adapters):
            clock.advance(2 if adapters else 1)

    one, watch = Named(), Stopwatch()
    with watch.watching((one, "act", lambda *, adapters: "adapted" if adapters else "frozen")):
        for adapters in (True, False, True):
            one.act(adapters=adapters)
    assert watch.seconds == {"adapted": 4, "frozen": 1}


def test_quick_work_is_repeated_until_the_time_is_over(clock):
    assert seconds_each(lambda: clock.advance(0.3), 1.0) == pytest.approx(0.3)
    assert clock.now == pytest.approx(101.2), "four calls take the second"
    assert seconds_each(lambda: clock.advance(5), 1.0) == pytest.approx(5)


def test_cores_of_other_programs_are_what_is_left_of_the_busy_ones(monkeypatch):
    busy, own, now = iter([50.0, 58.0]), iter([7.0, 9.0]), iter([0.0, 4.0])
    monkeypatch.setattr(others, "_busy", lambda: next(busy))
    monkeypatch.setattr(others, "_own", lambda: next(own))
    monkeypatch.setattr(others.time, "perf_counter", lambda: next(now))
    assert others.Others().cores() == pytest.approx(1.5), "8 s busy, 2 of them ours, in 4 s"


def test_own_work_and_that_of_ended_children_is_not_called_others():
    import subprocess
    import sys

    before = others._own()
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert others._own() - before >= 0.45
