"""``sigma benchmark-page``: joins the measured parts into ``metrics/benchmark.json`` and one page. Needs no model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.benchmark.catalogue import PARTS


def _one_machine(files: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """What every part says of the machine; raises :class:`sigma.errors.SigmaError` where two differ."""
    from sigma.errors import SigmaError

    (first, told), *others = ((file, record["machine"]) for file, record in files.items())
    for file, other in others:
        for key in sorted({*told, *other}):
            if told.get(key) != other.get(key):
                raise SigmaError(
                    f"{file}: measured with another {key} ({other.get(key)}) than {first} ({told.get(key)}); "
                    f"measure again: sigma benchmark {file.stem}"
                )
    return dict(told)


def run(*, parts: Path, output: Path, page: Path) -> str:
    """Write the metrics file and the page; returns the page's first line.

    Raises :class:`sigma.errors.SigmaError` where a part is missing or was measured on another machine.
    """
    from sigma.benchmark.table import summary_line
    from sigma.io import atomic_file, read_json, write_json
    from sigma.report.benchmark import build_benchmark

    files = {parts / f"{part}.json": read_json(parts / f"{part}.json") for part in PARTS}
    machine = _one_machine(files)
    figures = {name: record for found in files.values() for name, record in found["figures"].items()}
    text = build_benchmark(figures, machine)
    write_json(output, {"machine": machine, "figures": figures})
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return f"benchmark: {summary_line(figures)}"
