"""``sigma study rounds``: what each way gained and lost, with intervals over episodes and training seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sigma.simulation.setting import PLAIN_NAME
from sigma.studies.study.cells.arm_folder import EPISODES
from sigma.studies.study.cells.parameters import read_study
from sigma.studies.study.correct.parameters import CorrectionParameters, read_corrections, row_name

BEFORE, INSTEAD, HARDER = "before", "demonstrations", "harder"


def run(*, rounds: Path, params: Path, corrections: Path, output: Path) -> str:
    """Write ``output``: task -> setting -> row -> success, each with its difference to what the arm was before, and to
    as many demonstrations. ``harder`` is the mean over the harder settings of each scene, which they share; the base's
    tasks stand among the settings.

    ``rounds`` is the folder of all rounds. Returns one line. Raises :class:`SigmaError` where one is missing.
    """
    study, chosen = read_study(params), read_corrections(corrections)

    from sigma.shared.files import write_json
    from sigma.studies.study.score.closed_loop import join_seeds

    result: dict[str, Any] = {}
    for task in chosen.tasks:
        tables = [
            rounds / task / arm / way / str(seed) / EPISODES
            for seed in chosen.seeds
            for arm in chosen.arms
            for way in chosen.ways
        ]
        result[task] = _settings(join_seeds(tables), chosen, study.tasks[task].task)
    write_json(output, result)
    lines = []
    for task, settings in result.items():
        rows = settings.get(HARDER, settings[PLAIN_NAME])
        lines.append(f"{task}: " + ", ".join(f"{row} {entry['success']:.0%}" for row, entry in rows.items()))
    return "rounds: " + "; ".join(lines)


def _settings(
    played: Mapping[tuple[str, str, str], Mapping[str, Any]], chosen: CorrectionParameters, task: str
) -> dict[str, Any]:
    groups: dict[str, dict[str, list[np.ndarray]]] = {}
    for (name, setting, row), columns in played.items():
        parts = [setting if name == task else name]
        if name == task and setting != PLAIN_NAME:
            parts.append(HARDER)
        for part in parts:
            groups.setdefault(part, {}).setdefault(row, []).append(columns["success"])
    return {name: _rows(rows, chosen) for name, rows in groups.items()}


def _rows(rows: Mapping[str, Sequence[np.ndarray]], chosen: CorrectionParameters) -> dict[str, Any]:
    from sigma.evaluation.crossed import rate, rate_difference, share, share_difference

    found: dict[str, Any] = {}
    for arm in chosen.arms:
        for way in chosen.ways:
            own = rows[row_name(arm, way)]
            success = rate(own[0]) if len(own) == 1 else share(np.mean(own, axis=0))
            entry: dict[str, Any] = dict(zip(("success", "lo", "hi"), success, strict=True))
            entry["episodes"] = len(own) * own[0].shape[1]
            for other in (BEFORE, INSTEAD):
                if other in chosen.ways and way not in (BEFORE, other):
                    theirs = rows[row_name(arm, other)]
                    difference = rate_difference if len(own) == 1 else share_difference
                    gain = difference(np.mean(own, axis=0), np.mean(theirs, axis=0))
                    entry[f"minus_{other}"] = {"difference": gain.mean, "lo": gain.low, "hi": gain.high, "p": gain.p}
            found[row_name(arm, way)] = entry
    return found
