"""``sigma benchmark-page``: joins the measured parts into ``metrics/benchmark.json`` and one page. Needs no model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.studies.benchmark.catalogue import PARTS


def _one_machine(records: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """The machine of every part; raises :class:`sigma.shared.errors.SigmaError` where two parts differ."""
    from sigma.shared.errors import SigmaError

    (first, machine), *others = ((file, record["machine"]) for file, record in records.items())
    for file, other in others:
        for key in sorted({*machine, *other}):
            if machine.get(key) != other.get(key):
                raise SigmaError(
                    f"{file}: measured with another {key} ({other.get(key)}) than {first} ({machine.get(key)}); "
                    f"measure again: sigma benchmark {file.stem}"
                )
    return dict(machine)


def build_benchmark(figures: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """The page, which needs no other file; names that come from data are escaped.

    Args:
        figures: the records of ``metrics/benchmark.json`` by name.
        machine: what they were measured with.
    """
    from sigma.report.html import flat, render
    from sigma.studies.benchmark.comparison import HEADER, rows, summary_line

    return render(
        "benchmark.html",
        package="sigma.studies.benchmark",
        sentence=summary_line(figures),
        header=HEADER,
        rows=rows(figures),
        busy=[(record["title"], record["other_programs"]) for record in figures.values() if "other_programs" in record],
        machine=flat(machine),
    )


def run(*, parts: Path, output: Path, page: Path) -> str:
    """Write the metrics file and the page; returns the page's first line.

    Raises :class:`sigma.shared.errors.SigmaError` where a part is missing or was measured on another machine.
    """
    from sigma.shared.files import atomic_file, read_json, write_json
    from sigma.studies.benchmark.comparison import summary_line

    records = {parts / f"{part}.json": read_json(parts / f"{part}.json") for part in PARTS}
    machine = _one_machine(records)
    figures = {name: figure for record in records.values() for name, figure in record["figures"].items()}
    text = build_benchmark(figures, machine)
    write_json(output, {"machine": machine, "figures": figures})
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return f"benchmark: {summary_line(figures)}"
