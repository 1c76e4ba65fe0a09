"""The figures as rows of a table and as one line."""

from collections.abc import Mapping
from typing import Any

from sigma.studies.benchmark.catalogue import CATALOGUE

HEADER = ("figure", "the peer", "ours", "the peer's", "ratio, ours to the peer's (range)", "target")
SIGNS = {"at_least": "≥", "at_most": "≤"}
BUSY = 0.2  # cores of other programs above which the summary warns

Record = Mapping[str, Any]


def number(value: float) -> str:
    """Three significant digits without an exponent."""
    digits = f"{value:.3g}"
    return f"{value:.0f}" if "e" in digits and abs(value) >= 1 else digits


def _target(record: Record) -> str:
    """``≥ 20: met``, or a dash where no target is set."""
    if record["target"] is None:
        return "–"
    bound = next(key for key in SIGNS if key in record["target"])
    unit = f" {record['unit']}" if record["target"]["of"] == "own" else ""
    return f"{SIGNS[bound]} {number(record['target'][bound])}{unit}: {'met' if record['met'] else 'missed'}"


def _in_order(figures: Mapping[str, Record]) -> dict[str, Record]:
    """The records of the catalogue's figures, in its order."""
    return {name: figures[name] for name in CATALOGUE if name in figures}


def _row(record: Record) -> tuple[str, ...]:
    """A figure in the order of ``HEADER``; one that was not measured says why."""
    title, peer = record["title"], record["peer"]
    if "not_measured" in record:
        return title, peer, "–", "–", f"not measured: {record['not_measured']}", "–"
    if backend := record["peer_value"].get("video_backend"):
        missing = ", ".join(sorted(record["peer_value"]["backends_that_fail"]))
        peer += f" ({backend}{f'; {missing} did not load' if missing else ''})"
    own, other = (f"{number(record[side]['median'])} {record['unit']}" for side in ("own", "peer_value"))
    median, least, greatest = (number(record["ratio"][key]) for key in ("median", "min", "max"))
    return title, peer, own, other, f"{median} ({least} to {greatest})", _target(record)


def rows(figures: Mapping[str, Record]) -> list[tuple[str, ...]]:
    """One row a figure, in the catalogue's order."""
    return [_row(record) for record in _in_order(figures).values()]


def summary_line(figures: Mapping[str, Record]) -> str:
    """How many figures there are, how many targets are met, which are missed, and whether the machine was quiet."""
    known = _in_order(figures)
    measured = {name: record for name, record in known.items() if "ratio" in record}
    judged = {name: record["met"] for name, record in measured.items() if record["met"] is not None}
    missed = [name for name, met in judged.items() if not met]
    busy = max((record["other_programs"] for record in measured.values()), default=0.0)
    return (
        f"{len(measured)} figures, {sum(judged.values())} of {len(judged)} targets met"
        + (f"; missed: {', '.join(missed)}" if missed else "")
        + (f"; {len(known) - len(measured)} not measured" if len(known) > len(measured) else "")
        + (f"; taken while other programs had up to {busy:.1f} cores busy" if busy > BUSY else "")
    )
