"""A check of the audit: a function that measures, and beside it the limits that judge what it measures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """Above ``fail`` a measure is a failure, above ``warn`` a warning; None switches that level off."""

    warn: float | None
    fail: float | None

    def judge(self, value: float) -> tuple[str, float] | None:
        """Severity and the threshold that was passed, or None. A value that is no number passes every threshold."""
        for severity, threshold in (("fail", self.fail), ("warn", self.warn)):
            if threshold is not None and not value <= threshold:
                return severity, threshold
        return None


@dataclass(frozen=True)
class Check[Function: Callable[..., Iterator]]:
    """A check's function, its default limits, the unit in which it measures, and the reason for these limits."""

    function: Function
    limit: Limit
    unit: str
    reason: str

    @property
    def name(self) -> str:
        """The function's name, by which ``audit.limits`` and findings name the check."""
        return self.function.__name__


class CheckGroup[Function: Callable[..., Iterator]](list[Check[Function]]):
    """Checks that look at the same thing, in the order in which they are written."""

    def check(
        self, *, warn: float | None, fail: float | None, unit: str, reason: str
    ) -> Callable[[Function], Function]:
        """A decorator that adds a function with its limits to the group and leaves the function as it is."""

        def add(function: Function) -> Function:
            self.append(Check(function, Limit(warn, fail), unit, reason))
            return function

        return add
