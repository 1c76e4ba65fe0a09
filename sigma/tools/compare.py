"""``sigma compare``: do the metrics here agree with those of a commit, and how closely?

Another processor, thread count or build of a library rounds differently. Numbers of the frozen base move in the last
digits; numbers that depend on a training move more, because rounding grows over its steps.
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
# τ and alignment in the base's file are those of the control pass, which has the trained heads.
TRAINED_KEYS = {"tau_l2", "sem_align"}
# Intervals and p values are resampled from the numbers that are compared.
SKIPPED = {"delta", "delta_lo", "delta_hi", "p"}


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every numeric leaf with its dotted key; booleans are not numbers."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from numbers(child, f"{path}.{key}" if path else key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def relative_difference(here: float | None, there: float | None) -> float:
    """|a − b| over the larger of the two; 0 where both are 0, infinite where one is missing."""
    if here is None or there is None:
        return math.inf
    largest = max(abs(here), abs(there))
    return abs(here - there) / largest if largest else 0.0


def _committed(revision: str, path: Path) -> Any:
    git = subprocess.run(["git", "show", f"{revision}:{path.as_posix()}"], capture_output=True, text=True, check=False)
    if git.returncode:
        raise SigmaError(f"{path} at {revision}: {git.stderr.strip().splitlines()[0] if git.stderr else 'not found'}")
    return json.loads(git.stdout)


def run(*, revision: str, frozen_tolerance: float, trained_tolerance: float) -> tuple[str, bool]:
    """A table of the largest relative difference of each file and kind, and whether all are within tolerance."""
    tolerances = {"frozen": frozen_tolerance, "trained": trained_tolerance}
    lines, agreed = [], True
    for name in FROZEN + TRAINED:
        path = Path("metrics") / f"{name}.json"
        here, there = dict(numbers(read_json(path))), dict(numbers(_committed(revision, path)))
        differences: dict[str, dict[str, float]] = {kind: {} for kind in tolerances}
        for key in sorted(here.keys() | there.keys()):
            parts = key.split(".")
            trained = not TRAINED_KEYS.isdisjoint(parts) or (name in TRAINED and parts[-1] != "baseline")
            if parts[-1] not in SKIPPED:
                kind = "trained" if trained else "frozen"
                differences[kind][key] = relative_difference(here.get(key), there.get(key))
        for kind, by_key in differences.items():
            if by_key:
                key = max(by_key, key=by_key.__getitem__)
                largest, tolerance = by_key[key], tolerances[kind]
                agreed &= largest <= tolerance
                verdict = "agrees" if largest <= tolerance else "DIFFERS"
                lines.append(f"{path}  {kind:8}{largest:9.2e} of {tolerance:.0e}  {verdict}  {key if largest else ''}")
    return "\n".join(lines), agreed
