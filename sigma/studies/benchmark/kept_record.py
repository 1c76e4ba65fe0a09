"""What a figure writes: both sides' values, their ratio round by round, and whether the target is met.

Every ratio is ours over the peer's, in the record's unit: of a rate more is better, of seconds and memory less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from sigma.studies.benchmark.catalogue import Figure


@dataclass(frozen=True)
class Measured:
    """Values of both sides, one a round, and what else each side is to tell (parts, sizes)."""

    own: Sequence[float]
    peer: Sequence[float]
    own_told: Mapping[str, Any] = field(default_factory=dict)
    peer_told: Mapping[str, Any] = field(default_factory=dict)


class NotMeasured(Exception):
    """A figure that this project or machine has no use for; the message says why."""


def rounded(value: Any) -> Any:
    """Numbers with six significant digits, at every depth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): rounded(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(child) for child in value]
    return value


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and spread of one value a round."""
    return {"median": float(median(values)), "min": float(min(values)), "max": float(max(values))}


def ratios(own: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Ours over the peer's, round by round."""
    if len(own) != len(peer) or not own:
        raise ValueError(f"{len(own)} of our values and {len(peer)} of the peer's: as many of each are needed")
    return [ours / theirs for ours, theirs in zip(own, peer, strict=True)]


def build(figure: Figure, measured: Measured) -> dict[str, Any]:
    """A figure's record, JSON-ready; ``target`` and ``met`` are null where none was set."""
    found = ratios(measured.own, measured.peer)
    ratio, own, target = summary(found), summary(measured.own), figure.target
    met = None if target is None else target.met(ratio["median"] if target.of == "ratio" else own["median"])
    return rounded(
        {
            "part": figure.part,
            "title": figure.title,
            "peer": figure.peer,
            "unit": figure.unit,
            "ratio": ratio | {"rounds": found},
            "own": own | dict(measured.own_told),
            "peer_value": summary(measured.peer) | dict(measured.peer_told),
            "repetitions": len(found),
            "target": None if target is None else target.to_json(),
            "met": met,
        }
    )
