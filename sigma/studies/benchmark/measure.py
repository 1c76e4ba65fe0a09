"""Measuring two or more sides of a comparison in turn, and where inside a side the time goes."""

import gc
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Side = Callable[[], float]  # one measurement, in the figure's unit
Name = str | Callable[..., str]  # of a part, or what names it from the call's arguments
Place = tuple[Any, str, Name]  # owner of a function, its attribute there, and the part that its time counts for


@dataclass(frozen=True)
class Effort:
    """How often each side is measured, after how many rounds that do not count, and how long a quick side runs at least
    in each of them, in seconds."""

    repetitions: int
    warm_up: int = 1
    seconds: float = 1.0


def alternate(sides: Mapping[str, Side], effort: Effort) -> dict[str, list[float]]:
    """Measure every side once a round, in the order given in one round and in the reverse order in the next.

    What drifts while the rounds go on (clock rates, other programs) meets all sides alike. Returns the values
    of the rounds that count, by side.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(effort.warm_up + effort.repetitions):
        names = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        for name in names:
            gc.collect()
            value = sides[name]()
            if turn >= effort.warm_up:
                values[name].append(value)
    return values


def seconds_each(work: Callable[[], Any], least: float) -> float:
    """Seconds of one call of ``work``, which is called until ``least`` seconds are over, at least once."""
    started, calls = time.perf_counter(), 0
    while True:
        work()
        calls += 1
        passed = time.perf_counter() - started
        if passed >= least:
            return passed / calls


class Stopwatch:
    """Seconds spent inside chosen functions, by part. Inside a nested one the outer one's clock stands still."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[tuple[str, float]] = []  # part, since when

    def _enter(self, part: str) -> None:
        now = time.perf_counter()
        if self._running:
            outer, since = self._running[-1]
            self.seconds[outer] = self.seconds.get(outer, 0.0) + now - since
        self._running.append((part, now))

    def _leave(self) -> None:
        now = time.perf_counter()
        part, since = self._running.pop()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - since
        if self._running:
            self._running[-1] = (self._running[-1][0], now)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's time for this part."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def wrapped(self, function: Callable[..., Any], name: Name) -> Callable[..., Any]:
        """``function``, whose calls are counted; of a generator what happens between its values is not."""

        def named(*args: Any, **options: Any) -> str:
            return name if isinstance(name, str) else name(*args, **options)

        if inspect.isgeneratorfunction(function):

            def generate(*args: Any, **options: Any) -> Iterator[Any]:
                part, values = named(*args, **options), function(*args, **options)
                while True:
                    with self.part(part):
                        try:
                            value = next(values)
                        except StopIteration:
                            return
                    yield value

            return generate

        def call(*args: Any, **options: Any) -> Any:
            with self.part(named(*args, **options)):
                return function(*args, **options)

        return call

    @contextmanager
    def watching(self, *places: Place) -> Iterator["Stopwatch"]:
        """Count the calls at ``places`` inside the block; afterwards every owner is what it was."""
        undo: list[tuple[Any, str, bool, Any]] = []
        try:
            for owner, attribute, name in places:
                own = attribute in vars(owner)
                undo.append((owner, attribute, own, vars(owner).get(attribute)))
                setattr(owner, attribute, self.wrapped(getattr(owner, attribute), name))
            yield self
        finally:
            for owner, attribute, own, before in reversed(undo):
                if own:
                    setattr(owner, attribute, before)
                else:
                    delattr(owner, attribute)


def split(work: Callable[[], Any], places: list[Place], rest: str, calls: int = 1) -> dict[str, float]:
    """Seconds of one call of ``work`` by part; ``rest`` names what lies in none of ``places``.

    Runs apart from the measurement that it explains, so that the clocks cost that nothing. Parts that never ran are 0.
    """
    watch = Stopwatch()
    started = time.perf_counter()
    with watch.watching(*places):
        for _ in range(calls):
            work()
    whole = time.perf_counter() - started
    parts = dict.fromkeys((name for *_, name in places if isinstance(name, str)), 0.0) | watch.seconds
    parts[rest] = parts.get(rest, 0.0) + whole - sum(watch.seconds.values())
    return {name: seconds / calls for name, seconds in parts.items()}
