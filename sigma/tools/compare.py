"""``sigma compare``: do the metrics here agree with those of a commit, and how closely?

Another processor, thread count or build of a library rounds differently. Numbers of the frozen base move
in the last digits; numbers behind a training move more, because rounding grows over its steps.
"""

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json

FROZEN = ("audit", "baseline")
TRAINED = ("sigma", "check_b")
# τ and alignment of the base's file are the control pass's: the trained heads speak there too.
TRAINED_KEYS = ("tau_l2", "sem_align")


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every numeric leaf with its dotted key; booleans are not numbers."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from numbers(child, f"{path}.{key}" if path else key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def relative_difference(here: float, there: float) -> float:
    """|a − b| over the larger of the two; 0 where both are 0."""
    largest = max(abs(here), abs(there))
    return abs(here - there) / largest if largest else 0.0


def _committed(revision: str, path: Path) -> Any:
    done = subprocess.run(["git", "show", f"{revision}:{path.as_posix()}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SigmaError(f"{path} at {revision}: {done.stderr.strip().splitlines()[0] if done.stderr else 'not found'}")
    return json.loads(done.stdout)


def run(*, revision: str, frozen_tolerance: float, trained_tolerance: float) -> tuple[str, bool]:
    """A table of the largest relative differences, and whether all are within tolerance.

    Intervals and p values are left out: they are resampled from the numbers that are compared.
    """
    lines, agreed = [], True
    for name in FROZEN + TRAINED:
        path = Path("metrics") / f"{name}.json"
        here, there = dict(numbers(read_json(path))), dict(numbers(_committed(revision, path)))
        worst = {"frozen": ("", 0.0), "trained": ("", 0.0)}
        for key in sorted(here.keys() | there.keys()):
            leaf = key.rsplit(".", 1)[-1]
            if leaf in ("delta", "delta_lo", "delta_hi", "p"):
                continue
            from_heads = any(part in TRAINED_KEYS for part in key.split("."))
            trained = (name in TRAINED and not key.endswith(".baseline")) or from_heads
            kind = "trained" if trained else "frozen"
            gap = relative_difference(here[key], there[key]) if key in here and key in there else math.inf
            if gap > worst[kind][1]:
                worst[kind] = (key, gap)
        for kind, tolerance in (("frozen", frozen_tolerance), ("trained", trained_tolerance)):
            key, gap = worst[kind]
            within = gap <= tolerance
            agreed &= within
            if key or kind == ("trained" if name in TRAINED else "frozen"):
                verdict = "agrees" if within else "DIFFERS"
                lines.append(f"{path}  {kind:8}{gap:9.2e} of {tolerance:.0e}  {verdict}  {key}")
    return "\n".join(lines), agreed
