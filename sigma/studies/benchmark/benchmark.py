"""``sigma benchmark PART``: figures of speed and memory, each a ratio to a named peer within one run."""

from pathlib import Path
from typing import Any

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.catalogue import PARTS, figures_of


def check_names(part: str, only: list[str]) -> list[str]:
    """The part's figures that are asked for, by default all.

    Raises :class:`SigmaError` for an unknown part or figure.
    """
    if part not in PARTS:
        raise SigmaError(f"benchmark: no part {part!r}; legal: {', '.join(PARTS)}")
    names = figures_of(part)
    for name in only:
        if name not in names:
            raise SigmaError(f"benchmark: {part}: no figure {name!r}; legal: {', '.join(names)}")
    return [name for name in names if not only or name in only]


def run(*, part: str, params: Path, only: list[str], output: Path | None = None) -> str:
    """Measure a part's figures, each in a process of its own, and write them; returns one line on the targets.

    Args:
        part: one of the catalogue's.
        params: file with the section ``benchmark``.
        only: figures of the part, by default all; other records of an existing ``output`` stay.
        output: JSON file to write, whole, when all are measured.

    Raises :class:`SigmaError` for an unknown name before anything runs, and naming the figure that failed.
    """
    chosen = check_names(part, only)

    from sigma.shared.files import read_json, write_json
    from sigma.shared.progress import progress
    from sigma.studies.benchmark.comparison import summary_line
    from sigma.studies.benchmark.machine import describe
    from sigma.studies.benchmark.run import in_fresh_process
    from sigma.studies.benchmark.settings import read_benchmark

    settings, output = read_benchmark(params), output or Path(f"stages/benchmark/out/{part}.json")
    figures: dict[str, Any] = read_json(output)["figures"] if only and output.is_file() else {}
    with progress(f"benchmark: {part}", len(chosen)) as meter:
        for name in chosen:
            figures[name] = in_fresh_process(name, settings)
            meter.advance(1, name)
    write_json(output, {"machine": describe(settings), "figures": figures})
    return f"benchmark: {part}: {summary_line({name: figures[name] for name in chosen})}"
