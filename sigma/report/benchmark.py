"""The benchmark's page: one file that needs nothing else, for the person who waits for the machine."""

from collections.abc import Mapping
from typing import Any

from sigma.benchmark.table import HEADER, rows, splits, summary_line
from sigma.report.html import flat, render


def build_benchmark(figures: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """The whole page; names that come from data are escaped.

    Args:
        figures: the records of ``metrics/benchmark.json`` by name.
        machine: what they were measured with.
    """
    memory = figures.get("windowing_memory", {}).get("own", {}).get("by_copies", {})
    return render(
        "benchmark.html",
        sentence=summary_line(figures),
        header=HEADER,
        rows=rows(figures),
        splits=[(figures[name]["title"], *told) for name, *told in splits(figures)],
        memory=sorted(memory.items(), key=lambda item: int(item[0])),
        busy=[(record["title"], record["other_programs"]) for record in figures.values() if "other_programs" in record],
        machine=flat(machine),
    )
