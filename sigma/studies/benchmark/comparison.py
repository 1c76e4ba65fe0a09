"""The figures as rows of tables and as one line, from ``metrics/benchmark.json``."""

from collections.abc import Callable, Mapping
from typing import Any

from sigma.studies.benchmark.catalogue import CATALOGUE

HEADER = ("figure", "the peer", "ours", "the peer's", "ratio, ours to the peer's (range)", "target")
SIGNS = {"at_least": "≥", "at_most": "≤"}
BUSY = 0.2  # cores of other programs above which a figure says so

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
    of = f" {record['unit']}" if record["target"]["of"] == "own" else ""
    return f"{SIGNS[bound]} {number(record['target'][bound])}{of}: {'met' if record['met'] else 'missed'}"


def rows(figures: Figures) -> list[tuple[str, ...]]:
    """One row a figure in the catalogue's order: a figure that was not measured says why, a peer its video backend."""
    found = []
    for name in CATALOGUE:
        record = figures.get(name)
        if record is None:
            continue
        if "not_measured" in record:
            found.append((record["title"], record["peer"], "–", "–", f"not measured: {record['not_measured']}", "–"))
            continue
        ratio, unit = record["ratio"], record["unit"]
        spread = f"{number(ratio['median'])} ({number(ratio['min'])} to {number(ratio['max'])})"
        values = (f"{number(record[side]['median'])} {unit}" for side in ("own", "peer_value"))
        found.append(
            (record["title"], record["peer"] + _backend(record["peer_value"]), *values, spread, target(record))
        )
    return found


def _backend(peer: Mapping[str, Any]) -> str:
    """The peer's video backend, and which of its others did not load on the machine."""
    if "video_backend" not in peer:
        return ""
    missing = ", ".join(sorted(peer.get("backends_that_fail", {})))
    return f" ({peer['video_backend']}{f'; {missing} did not load' if missing else ''})"


def splits(figures: Figures) -> list[tuple[str, str, list[tuple[str, float, float]]]]:
    """(figure's name, whose, [(part, seconds, share of the side's time)]) for every side that has a split."""
    found = []
    for name in CATALOGUE:
        record = figures.get(name, {})
        for whose, told in (("ours", record.get("own", {})), ("the peer's", record.get("peer_value", {}))):
            parts = told.get("split", {})
            whole = sum(parts.values())
            if whole > 0 and len(parts) > 1:
                listed = [(part, value, value / whole) for part, value in parts.items()]
                found.append((name, whose, sorted(listed, key=lambda item: -item[1])))
    return found


def profiles(figures: Figures) -> str:
    """An item in Markdown for every figure whose target is missed: by how much, and the shares of each side's parts."""
    sides = {(name, whose): parts for name, whose, parts in splits(figures)}
    lines = []
    for name in CATALOGUE:
        record = figures.get(name, {})
        if record.get("met") is not False:
            continue
        told = []
        for whose in ("ours", "the peer's"):
            parts = sides.get((name, whose), [])
            listed = ", ".join(f"{part} {100 * share:.0f} %" for part, _, share in parts if share >= 0.005)
            told += [f"{whose}: {listed}"] if listed else []
        value = record["ratio"]["median"] if record["target"]["of"] == "ratio" else record["own"]["median"]
        lines.append(f"- `{name}`, {number(value)} ({target(record)}). {'; '.join(told) or 'One command, no parts'}.")
    return "\n".join(lines) or "None."


def scale(figures: Figures) -> str:
    """A table in Markdown of what 10⁴, 10⁵ and 10⁶ episodes cost: the measured growth with episodes, drawn on.

    A straight line through the fewest and the most episodes; of time the median of the rounds. Peak memory grows by its
    medians only where the ranges of the fewest and the most do not touch; else noise would be drawn on, and it grows by
    the index, which is what the stage is known to hold of every episode.
    """
    told = figures["windowing_memory"]["own"]["by_copies"]
    first, last = (told[number] for number in (min(told, key=int), max(told, key=int)))
    grown = last["episodes"] - first["episodes"]

    def at(episodes: int, value: Callable[[Mapping[str, Any]], float]) -> float:
        return value(last) + (value(last) - value(first)) / grown * (episodes - last["episodes"])

    apart = last["mib"]["min"] > first["mib"]["max"]
    least, most = (one["mib"]["median"] if apart else one["index_mib"] for one in (first, last))
    memory_growth = (most - least) / grown

    def cells(episodes: int) -> list[str]:
        windows = at(episodes, lambda one: one["windows"])
        replayed = windows / figures["evaluation_base"]["own"]["median"]
        gib = (
            at(episodes, lambda one, name=name: one[name]) / 1024 for name in ("disk_mib", "index_mib", "features_mib")
        )
        peak = (last["mib"]["median"] + memory_growth * (episodes - last["episodes"])) / 1024
        disk, index, features = (f"{value:.3g} GiB" for value in gib)
        return [
            f"{episodes:,}",
            _duration(at(episodes, lambda one: one["seconds"]["median"])),
            f"{peak:.3g} GiB",
            disk,
            _duration(replayed),
            index,
            features,
        ]

    header = (
        "episodes",
        "windowing",
        "its peak memory",
        "shards on disk",
        "baseline",
        "index in memory",
        "features, by memory map",
    )
    lines = [header, ("---",) * len(header), *map(cells, (last["episodes"], 10**4, 10**5, 10**6))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def summary_line(figures: Figures) -> str:
    """How many figures there are, how many targets are met, which are missed, and whether the machine was quiet."""
    measured = {name: record for name, record in figures.items() if "ratio" in record}
    judged = {name: record["met"] for name, record in measured.items() if record["met"] is not None}
    missed = [name for name in CATALOGUE if judged.get(name) is False]
    left = len(figures) - len(measured)
    busy = max((record["other_programs"] for record in measured.values()), default=0.0)
    return (
        f"{len(measured)} figures, {sum(judged.values())} of {len(judged)} targets met"
        + (f"; missed: {', '.join(missed)}" if missed else "")
        + (f"; {left} not measured" if left else "")
        + (f"; taken while other programs had up to {busy:.1f} cores busy" if busy > BUSY else "")
    )


def markdown(figures: Figures) -> str:
    """The table in Markdown; every ratio is ours over the peer's."""
    lines = [HEADER, ("---",) * len(HEADER), *rows(figures)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
