"""``sigma benchmark-page``: joins the measured parts into ``metrics/benchmark.json`` and one page. Needs no model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.catalogue import PARTS


def _same_machine(records: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """The machine of every part; raises :class:`SigmaError` where two parts differ."""
    first, record = next(iter(records.items()))
    machine = record["machine"]
    for file, record in records.items():
        for key in sorted({*machine, *record["machine"]}):
            expected, actual = machine.get(key), record["machine"].get(key)
            if actual != expected:
                raise SigmaError(
                    f"{file}: measured with another {key} ({actual}) than {first} ({expected}); "
                    f"measure again: sigma benchmark {file.stem}"
                )
    return machine


def run(*, parts: Path, output: Path, page: Path) -> str:
    """Write the metrics file and the page; returns the page's first line.

    Raises :class:`SigmaError` where a part is missing or was measured on another machine.
    """
    from sigma.report.html import flat, render
    from sigma.shared.files import Outputs, read_json
    from sigma.studies.benchmark.comparison import HEADER, rows, summary_line

    records = {file: read_json(file) for file in (parts / f"{part}.json" for part in PARTS)}
    machine = _same_machine(records)
    figures = {name: figure for record in records.values() for name, figure in record["figures"].items()}
    text = render(
        "benchmark.html",
        package="sigma.studies.benchmark",
        sentence=summary_line(figures),
        header=HEADER,
        rows=rows(figures),
        busy=[(record["title"], record["other_programs"]) for record in figures.values() if "other_programs" in record],
        machine=flat(machine),
    )
    with Outputs() as outputs:
        outputs.json(output, {"machine": machine, "figures": figures})
        outputs.file(page).write_text(text, encoding="utf-8")
    return f"benchmark: {summary_line(figures)}"
