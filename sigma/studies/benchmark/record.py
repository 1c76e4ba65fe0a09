"""What a figure writes: both sides' values, their ratio round by round, and whether the target is met.

Every ratio is ours over the peer's, in the record's unit: of a rate more is better, of seconds and memory less.
"""

import json
from collections.abc import Sequence
from typing import Any

from torch.utils.benchmark import Measurement, TaskSpec

from sigma.studies.benchmark.catalogue import Figure
from sigma.studies.benchmark.measure import Measured


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and interquartile range of one value a round."""
    rounds = Measurement(number_per_run=1, raw_times=list(values), task_spec=TaskSpec("work()", "pass"))
    return {"median": rounds.median, "iqr": rounds.iqr}


def build(figure: Figure, measured: Measured) -> dict[str, Any]:
    """A figure's record, JSON-ready; ``target`` and ``met`` are null where none was set.

    Raises ``ValueError`` where the sides have different numbers of rounds.
    """
    own, peer = measured.own, measured.peer
    if len(own) != len(peer) or not own:
        raise ValueError(f"{len(own)} of our values and {len(peer)} of the peer's: as many of each are needed")
    if figure.unit.endswith("/s"):
        own, peer = [1 / seconds for seconds in own], [1 / seconds for seconds in peer]
    ratios = [ours / theirs for ours, theirs in zip(own, peer, strict=True)]
    ratio, own_summary, target = summary(ratios), summary(own), figure.target
    record = {
        "part": figure.part,
        "title": figure.title,
        "peer": figure.peer,
        "unit": figure.unit,
        "ratio": ratio | {"min": min(ratios), "max": max(ratios), "rounds": ratios},
        "own": own_summary | dict(measured.own_details),
        "peer_value": summary(peer) | dict(measured.peer_details),
        "repetitions": len(ratios),
        "target": None if target is None else {target.bound: target.value, "of": target.of},
        "met": None if target is None else target.met((ratio if target.of == "ratio" else own_summary)["median"]),
    }
    # Six significant digits, at every depth.
    return json.loads(json.dumps(record), parse_float=lambda text: float(f"{float(text):.6g}"))
