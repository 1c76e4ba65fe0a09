"""The figures as rows of a table and as one line."""

from collections.abc import Mapping
from typing import Any

from sigma.studies.benchmark.catalogue import CATALOGUE

HEADER = ("figure", "the peer", "ours", "the peer's", "ratio, ours to the peer's (range)", "target")
SIGNS = {"at_least": "≥", "at_most": "≤"}
BUSY = 0.2  # cores of other programs above which the summary warns

Figures = Mapping[str, Mapping[str, Any]]


def number(value: float) -> str:
    """Three significant digits without an exponent."""
    digits = f"{value:.3g}"
    return f"{value:.0f}" if "e" in digits and abs(value) >= 1 else digits


def target(record: Mapping[str, Any]) -> str:
    """``≥ 20: met``, or a dash where no target is set."""
    if record.get("target") is None:
        return "–"
    bound = next(key for key in SIGNS if key in record["target"])
    unit = f" {record['unit']}" if record["target"]["of"] == "own" else ""
    return f"{SIGNS[bound]} {number(record['target'][bound])}{unit}: {'met' if record['met'] else 'missed'}"


def _known(figures: Figures) -> dict[str, Mapping[str, Any]]:
    """The records of the catalogue's figures, in its order."""
    return {name: figures[name] for name in CATALOGUE if name in figures}


def rows(figures: Figures) -> list[tuple[str, ...]]:
    """One row a figure, in the order of ``HEADER``; a figure that was not measured says why."""
    table: list[tuple[str, ...]] = []
    for record in _known(figures).values():
        if "not_measured" in record:
            table.append((record["title"], record["peer"], "–", "–", f"not measured: {record['not_measured']}", "–"))
            continue
        ratio, unit = record["ratio"], record["unit"]
        spread = f"{number(ratio['median'])} ({number(ratio['min'])} to {number(ratio['max'])})"
        own, peer = (f"{number(record[side]['median'])} {unit}" for side in ("own", "peer_value"))
        table.append(
            (record["title"], record["peer"] + _backend(record["peer_value"]), own, peer, spread, target(record))
        )
    return table


def _backend(peer: Mapping[str, Any]) -> str:
    """The peer's video backend, and which of its others did not load on the machine."""
    if "video_backend" not in peer:
        return ""
    missing = ", ".join(sorted(peer.get("backends_that_fail", {})))
    return f" ({peer['video_backend']}{f'; {missing} did not load' if missing else ''})"


def summary_line(figures: Figures) -> str:
    """How many figures there are, how many targets are met, which are missed, and whether the machine was quiet."""
    known = _known(figures)
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
