"""Progress of long work on standard error: a bar on a terminal, a few plain lines elsewhere, such as in a log."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class _Lines:
    """Print a line at each tenth of the work."""

    def __init__(self, description: str, total: int):
        self.description, self.total, self.done, self.printed = description, max(total, 1), 0, 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        tenth = 10 * self.done // self.total
        if tenth > self.printed:
            self.printed = tenth
            print(f"{self.description}: {self.done}/{self.total} {note}".rstrip(), file=sys.stderr, flush=True)


class _Bar:
    """Move a bar of rich's."""

    def __init__(self, progress: "Progress", task: "TaskID"):
        self.progress, self.task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.progress.update(self.task, advance=steps, note=note)


@contextmanager
def progress(description: str, total: int) -> Iterator[_Lines | _Bar]:
    """A meter of ``total`` steps; its ``advance(steps, note)`` counts steps and shows the note behind the count."""
    if not sys.stderr.isatty():
        yield _Lines(description, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(description, total=total, note=""))


def track[Item](items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Iterate over ``items`` under a meter of ``total`` steps."""
    with progress(description, total) as meter:
        for item in items:
            yield item
            meter.advance()
