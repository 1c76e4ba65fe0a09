"""Success in closed loop, from the tables that ``sigma rollout`` wrote.

Legend: S training seeds, E episodes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sigma.evaluation.crossed import rate, rate_difference
from sigma.evaluation.gate_measures import auroc, gate_measures
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_table
from sigma.shared.records import read_record
from sigma.shared.tables import metadata_of

COLUMNS = ("seed", "success", "progress", "wrong_box", "failure")
GATE = ("risk", "scale")  # a list a decision, None without a gate
EARLY = 5  # decisions of an episode by which the gate is judged
SPEED = "decisions_per_second"
Key = tuple[str, str, str]  # simulator task, setting, arm
Groups = dict[Key, dict[str, Any]]  # a list of COLUMNS' values in the order of the episodes, and the speed
_AGAIN = "run `dvc repro stages/study/dvc.yaml`"


def read_played(path: Path) -> tuple[str, Groups]:
    """The protocol and the episodes of one table of ``sigma rollout``.

    Raises :class:`SigmaError` where it is no such table, or its clocks' file is missing or of other episodes.
    """
    table = read_table(path)
    missing = [name for name in ("arm", "task", "setting", *COLUMNS, *GATE) if name not in table.column_names]
    metadata = metadata_of(table)
    if missing or "protocol" not in metadata:
        raise SigmaError(f"{path}: no table of `sigma rollout` (lacks {', '.join(missing) or 'metadata'})")
    groups: Groups = {}
    for row in sorted(table.to_pylist(), key=lambda row: row["seed"]):
        columns = groups.setdefault((row["task"], row["setting"], row["arm"]), {name: [] for name in (*COLUMNS, *GATE)})
        for name in (*COLUMNS, *GATE):
            columns[name].append(row[name])
    file = path.with_suffix(".json")
    form = {"played": [{"arm": str, "task": str, "setting": str, SPEED: float | None}]}
    clocks = read_record(file, form, _AGAIN)["played"]
    rates = {(clock["task"], clock["setting"], clock["arm"]): clock[SPEED] for clock in clocks}
    if rates.keys() != groups.keys():
        raise SigmaError(f"{file}: is of other episodes than the table beside it; {_AGAIN}")
    for key, speed in rates.items():
        groups[key][SPEED] = speed
    return metadata["protocol"], groups


def join_seeds(tables: Sequence[Path]) -> dict[Key, dict[str, Any]]:
    """Every arm's episodes by task and setting, as arrays ``[S, E]`` in the order of the tables.

    Raises :class:`SigmaError` for tables of other parameters, and for arms that did not play the same episodes.
    """
    protocol, gathered = None, dict[Key, list[dict[str, Any]]]()
    for path in tables:
        now, groups = read_played(path)
        protocol = protocol or now
        if now != protocol:
            raise SigmaError(f"{path}: was played with other parameters than {tables[0]}; {_AGAIN}")
        for key, columns in groups.items():
            gathered.setdefault(key, []).append(columns)
    episodes: dict[tuple[str, str], list[int]] = {}
    joined: dict[Key, dict[str, Any]] = {}
    for key, parts in gathered.items():
        for part in parts:
            if episodes.setdefault(key[:2], part["seed"]) != part["seed"]:
                raise SigmaError(f"the arms on {key[0]}, {key[1]} did not play the same episodes; {_AGAIN}")
        joined[key] = {name: np.array([part[name] for part in parts]) for name in COLUMNS}
        joined[key] |= {name: [row for part in parts for row in part[name]] for name in GATE}
        speeds = [part[SPEED] for part in parts if part[SPEED] is not None]
        joined[key][SPEED] = float(np.median(speeds)) if speeds else None
    return joined


def score(columns: Mapping[str, Any]) -> dict[str, Any]:
    """What one arm did in one setting, JSON-ready."""
    success = columns["success"]
    result = {
        **dict(zip(("success", "lo", "hi"), rate(success), strict=True)),
        "seeds": [float(value) for value in success.mean(axis=1)],
        "episodes": success.shape[1],
        "progress": float(columns["progress"].mean()),
        "wrong_box": int(columns["wrong_box"].sum()),
        "failures": dict(sorted(Counter(kind for kind in columns["failure"].ravel() if kind is not None).items())),
    }
    if None not in columns["risk"]:
        result["gate"] = gate_measures(success.ravel(), columns["risk"], columns["scale"], first=EARLY)
    if columns[SPEED] is None:  # the expert, who has no policy
        return result
    return result | {SPEED: round(columns[SPEED], 2), "passes": passes(columns["scale"])}


def passes(scales: Sequence[Sequence[float] | None]) -> float:
    """How often a policy integrates a plan at a decision, on average: once, and between the two ends of the scale both
    the base's and its own. ``scales`` are those of each episode, None without a gate."""
    decisions = [scale for episode in scales if episode is not None for scale in episode]
    return 1.0 + float(np.mean([0.0 < scale < 1.0 for scale in decisions])) if decisions else 1.0


def against(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, float]:
    """Success of ``first`` minus that of ``second`` on the same episodes, JSON-ready."""
    difference = rate_difference(first["success"], second["success"])
    return {"difference": difference.mean, "lo": difference.low, "hi": difference.high, "p": difference.p}


def knows_other_tasks(target: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> float | None:
    """AUROC of the gate's early risk for "this is not the task": episodes of the base's own tasks against plain ones of
    the target; None for an arm without a gate."""
    risks = [columns["risk"] for columns in (target, *others)]
    if any(None in rows for rows in risks):
        return None
    early = [[max(row[:EARLY]) for row in rows] for rows in risks]
    return auroc(list(chain(*early)), [False] * len(early[0]) + [True] * sum(map(len, early[1:])))


def retention(arm: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An arm on the base's own tasks together, one entry a task: its success, and that minus the frozen base's.

    Episodes of the tasks count alike; what an arm loses there, it has forgotten.
    """
    success, before = (np.concatenate([task["success"] for task in tasks], axis=1) for tasks in (arm, base))
    change = rate_difference(success, before)
    result = dict(zip(("success", "lo", "hi"), rate(success), strict=True)) | {"episodes": success.shape[1]}
    return result | {"difference": change.mean, "difference_lo": change.low, "difference_hi": change.high}
