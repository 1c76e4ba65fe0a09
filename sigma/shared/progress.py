"""Progress of long work on standard error: a bar on a terminal, a few plain lines elsewhere, such as in a log."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


class Meter:
    """Counts steps of work: moves rich's bar where there is one, else prints a line at each tenth of the work."""

    def __init__(self, description: str, total: int, bar: "Progress | None" = None):
        self.description, self.total, self.done, self.bar = description, max(total, 1), 0, bar
        self.task = bar.add_task(description, total=total, note="") if bar else None

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` more and show the note behind the count."""
        tenths = 10 * self.done // self.total
        self.done += steps
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, advance=steps, note=note)
        elif 10 * self.done // self.total > tenths:
            print(f"{self.description}: {self.done}/{self.total} {note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def progress(description: str, total: int) -> Iterator[Meter]:
    """A meter of ``total`` steps."""
    if not sys.stderr.isatty():
        yield Meter(description, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        yield Meter(description, total, bar)


def track[Item](items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Iterate over ``items`` under a meter of ``total`` steps."""
    with progress(description, total) as meter:
        for item in items:
            yield item
            meter.advance()
