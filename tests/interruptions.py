"""A training that is stopped in the middle, and the steps that one takes."""

from collections.abc import Callable

from sigma.training.loop import Phase


def interrupt(monkeypatch, after: int) -> Callable[[], None]:
    """Stop training at the start of optimizer step ``after``; returns what undoes it."""
    optimize, count = Phase._optimize, [0]

    def stopping(self):
        if count[0] == after:
            raise KeyboardInterrupt
        count[0] += 1
        return optimize(self)

    monkeypatch.setattr(Phase, "_optimize", stopping)
    return lambda: monkeypatch.setattr(Phase, "_optimize", optimize)


def steps_taken(monkeypatch) -> list[int]:
    """The numbers of the optimizer steps that are taken from now on."""
    optimize, steps = Phase._optimize, []

    def counted(self):
        steps.append(self.step)
        return optimize(self)

    monkeypatch.setattr(Phase, "_optimize", counted)
    return steps
