"""Two sides of a comparison, timed in turn by torch's benchmark timer.

``torch.utils.benchmark`` times the work, waits for an accelerator, and finds how often quick work must run. What it
lacks is added here: rounds that alternate between the sides, so that whatever drifts on a machine meets both.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.benchmark import Timer, timer

from sigma.studies.benchmark.settings import BenchmarkParameters


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    ``amount`` counts the windows, images or decisions of one call of ``work``; ``details`` go into the record.
    """

    work: Callable[[], object]
    amount: float = 1
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Cost of one unit of work on both sides, one value a round: seconds, or MiB. The details go into the record."""

    own: list[float]
    peer: list[float]
    own_details: Mapping[str, Any] = field(default_factory=dict)
    peer_details: Mapping[str, Any] = field(default_factory=dict)


class NotMeasured(Exception):
    """A figure that means nothing for this project or machine; the message says why."""


def in_turn(own: Callable[[], float], peer: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Call both sides once a round, own first in one round and last in the next; returns what each call returned.

    Garbage is collected before each call, so that no side pays for what the other one left.
    """
    values: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            gc.collect()
            values[index].append((own, peer)[index]())
    return values


def seconds_once(work: Callable[[], object]) -> float:
    """Seconds of one call: for work that takes long, or that starts a process."""
    started = timer()
    work()
    return timer() - started


def seconds_each(work: Callable[[], object], least: float) -> float:
    """Seconds of one call, the median of as many calls as take ``least`` seconds, after some that warm up."""
    # Without num_threads the timer would set torch to one thread.
    watch = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return watch.blocked_autorange(min_run_time=least).median


def compare(own: Side, peer: Side, settings: BenchmarkParameters, *, once: bool = False) -> Measured:
    """Time both sides in turn; ``once`` calls a side only once a round, without a warm-up."""

    def seconds(side: Side) -> Callable[[], float]:
        timed = seconds_once if once else lambda work: seconds_each(work, settings.seconds)
        return lambda: timed(side.work) / side.amount

    values = in_turn(seconds(own), seconds(peer), settings.repetitions)
    return Measured(*values, own.details, peer.details)
