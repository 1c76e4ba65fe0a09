"""Errors of every arm on the held-out windows of a task, by training seed and episode.

Legend: W held-out windows, T horizon, A action dim, S training seeds, E episodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.evaluation import scores
from sigma.evaluation.crossed import crossed_mean
from sigma.evaluation.intervals import episode_sums
from sigma.evaluation.predictions import BASELINE_COLUMNS
from sigma.evaluation.references import reference_plans
from sigma.evaluation.scores import Arm
from sigma.parameters.report import ReportParameters
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json
from sigma.shared.spans import SPANS
from sigma.shared.tables import read_columns
from sigma.studies.study.cells.arm_folder import PREDICTIONS, variant_names
from sigma.studies.study.cells.workspace import Workspace

CRITICAL = "mse_plan_critical"
METRICS = (*scores.METRICS, CRITICAL)
SPLITS = ("test", "validation")
REFERENCES = ("frozen_base", "base_mean_of_samples", "hold_state", "mean_trajectory")
JOINED = ("window", "episode", "step", "split")
Errors = dict[str, np.ndarray]  # metric -> mean error of each episode [S, E]


@dataclass(frozen=True)
class Windows:
    """What every row is scored on: the validation and test windows of a task's baseline table, in its order."""

    columns: dict[str, np.ndarray]
    plans: dict[str, np.ndarray]  # of the untrained references [W, T, A]
    scored: np.ndarray  # [A] bool
    critical: np.ndarray  # [W] bool
    chunk: int

    @classmethod
    def open(cls, workspace: Workspace, report: ReportParameters) -> "Windows":
        """The windows by the joints of the shards and the section ``report``."""
        shards = read_json(workspace.shards / "meta.json")
        base, _ = read_columns(workspace.baseline, BASELINE_COLUMNS)
        held_out = base["split"] != "train"
        # The mean trajectory reads the train windows, so that plans are made before the held-out ones are taken.
        plans = {"frozen_base": base["base_action"], **reference_plans(base)}
        columns = {name: base[name][held_out] for name in (*JOINED, "action", "valid")}
        joints = list(shards["joint_names"])
        moving = np.array([name in shards["critical_joints"] for name in joints])
        return cls(
            columns,
            {name: plans[name][held_out] for name in REFERENCES},
            np.array([name not in shards["exclude_joints"] for name in joints]),
            scores.critical_windows(columns["action"], columns["valid"], moving, report.critical_threshold),
            shards["chunk"],
        )

    def errors(self, arm: Arm, split: str) -> Errors:
        """The mean error of each episode of ``split`` under each of :data:`METRICS`, ``[E]``.

        Where fewer than two episodes have a critical window, that metric is left out; episodes without one are left
        out of it.
        """
        by_window = scores.window_errors(arm, self.columns["action"], self.columns["valid"], self.scored)
        chosen = self.columns["split"] == split
        rows = dict.fromkeys(scores.METRICS, chosen) | {CRITICAL: chosen & self.critical}
        by_window[CRITICAL] = by_window["mse_plan"]
        result = {}
        for metric, mask in rows.items():
            sums, counts = episode_sums(by_window[metric][mask], self.columns["episode"][mask])
            if metric != CRITICAL or len(sums) >= 2:  # an interval over episodes needs two
                result[metric] = sums / counts
        return result

    def read_arm(self, folder: Path, arm: str, kind: str) -> dict[str, Arm]:
        """The executed actions of a trained arm's variants, from what `sigma study predict` wrote.

        Raises :class:`SigmaError`, naming the file, where it was made on other windows or is not finite.
        """
        path = folder / PREDICTIONS
        table, _ = read_columns(path, JOINED)
        for name in JOINED:
            if not np.array_equal(table[name], self.columns[name]):
                raise SigmaError(f"{path}: column {name!r} is not that of this task's validation and test windows")
        variants = [name for name in variant_names(arm, kind) if f"{name}.{SPANS[0]}" in table]
        found: dict[str, Arm] = {}
        for variant in variants:
            actions = {span: table[f"{variant}.{span}"] for span in SPANS}
            for span, values in actions.items():
                if not np.isfinite(values).all():
                    raise SigmaError(f"{path}: column '{variant}.{span}' holds a value that is not finite")
            found[variant] = scores.span_arm(actions)
        return found


def offline_table(trained: Mapping[str, list[Arm]], windows: Windows, split: str, subject: str) -> dict[str, Any]:
    """Every row's errors on one split with intervals, and the subject's minus each.

    ``trained`` maps a row to its actions at each training seed. Episodes count alike, whatever their number of windows.
    """
    references = {name: [scores.plan_arm(plan, windows.chunk)] for name, plan in windows.plans.items()}
    rows: dict[str, Errors] = {}
    for name, arms in {**references, **trained}.items():
        errors = [windows.errors(arm, split) for arm in arms]
        rows[name] = {metric: np.stack([one[metric] for one in errors]) for metric in errors[0]}
    return {name: _entries(errors, rows[subject], own=name == subject) for name, errors in rows.items()}


def _entries(errors: Errors, subject: Errors, *, own: bool) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for metric, values in errors.items():
        mean = crossed_mean(values)
        entry: dict[str, Any] = {"mean": mean.mean, "lo": mean.low, "hi": mean.high}
        entry["seeds"] = [float(seed) for seed in values.mean(axis=1)]
        if not own:
            delta = crossed_mean(np.subtract(*np.broadcast_arrays(subject[metric], values)))
            entry["sigma_minus"] = {"difference": delta.mean, "lo": delta.low, "hi": delta.high, "p": delta.p}
        entries[metric] = entry
    return entries
