"""Progress of long work: a bar on a terminal, a few plain lines where there is none."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class _Plain:
    """Prints a line at each tenth of the work."""

    def __init__(self, description: str, total: int):
        self.description, self.total, self.done, self.printed = description, max(total, 1), 0, 0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        tenth = 10 * self.done // self.total
        if tenth > self.printed:
            self.printed = tenth
            print(f"{self.description}: {self.done}/{self.total} {note}".rstrip(), file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, progress, task):
        self.progress, self.task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.progress.update(self.task, advance=steps, note=note)


@contextmanager
def progress(description: str, total: int) -> Iterator[_Plain | _Bar]:
    """A meter with ``advance(steps, note)``, shown on standard error."""
    if not sys.stderr.isatty():
        yield _Plain(description, total)
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
