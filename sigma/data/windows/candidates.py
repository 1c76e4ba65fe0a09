"""Every candidate window of a dataset: its split, what the filter says of it, and whether it is stored."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigma.data.dataset.dataset import ACTION, STATE, Dataset, Episode, Rows
from sigma.data.dataset.statistics import Statistics, feature_statistics, spread
from sigma.data.windows.cutting import (
    Protocol,
    action_norm,
    decision_steps,
    filter_reasons,
    is_strided,
    motion,
    seconds_to_correction,
)
from sigma.data.windows.split import SPLITS
from sigma.shared.errors import SigmaError


@dataclass(frozen=True)
class Filter:
    """Training windows below either bound are left out; ``min_action_norm`` in raw units, ``min_motion`` normalised."""

    min_action_norm: float
    min_motion: float


def read_usable(dataset: Dataset, episodes: Iterable[int]) -> Iterator[tuple[int, Rows]]:
    """Each episode's index and rows, checked: neighbouring rows are neighbouring steps, and every value is finite.

    Raises :class:`SigmaError` where they are not, whatever the audit's limits let pass: one non-finite value spoils
    statistics and losses.
    """
    chosen = [dataset.episodes[index] for index in episodes]
    for episode, rows in zip(chosen, dataset.read_each(chosen), strict=True):
        _check(dataset, episode, rows)
        yield episode.index, rows


def _check(dataset: Dataset, episode: Episode, rows: Rows) -> None:
    faults = {
        f"{len(rows.state)} rows, {episode.length} declared": len(rows.state) != episode.length,
        "no rows": episode.length == 0,
        "frame_index does not count 0, 1, 2, …": not np.array_equal(rows.frame_index, np.arange(len(rows.frame_index))),
        "non-finite state or action": not (np.isfinite(rows.state).all() and np.isfinite(rows.action).all()),
        "a task that meta/tasks.parquet does not list": not np.isin(rows.task, np.arange(len(dataset.tasks))).all(),
    }
    for fault, present in faults.items():
        if present:
            place = f"{dataset.root}/{episode.table}: episode {episode.index}"
            raise SigmaError(f"{place}: {fault}; list it in params.yaml: audit.exclude")


def first_tasks(dataset: Dataset, episodes: Sequence[int]) -> dict[int, int]:
    """The task each episode begins with, by episode."""
    return {index: int(rows.task[0]) for index, rows in read_usable(dataset, episodes)}


def train_statistics(dataset: Dataset, episodes: Sequence[int]) -> dict[str, Statistics]:
    """Statistics of state and action over all frames of ``episodes``.

    ``step`` of the action is how far each joint's command moves in one control step, exceeded in one step of a thousand
    alone: a recording that dropped a few frames does not make the arm look faster than it is.

    Exact quantiles need every value at once: the one place where memory grows with the dataset, by 16 bytes a joint and
    frame (96 MB for a million frames of six joints).
    """
    tables = [rows for _, rows in read_usable(dataset, episodes)]
    values = {STATE: [rows.state for rows in tables], ACTION: [rows.action for rows in tables]}
    statistics = {feature: feature_statistics(np.concatenate(parts)) for feature, parts in values.items()}
    moves = np.concatenate([np.abs(np.diff(part, axis=0, prepend=part[:1])) for part in values[ACTION]])
    statistics[ACTION]["step"] = np.quantile(moves.astype(np.float64), 0.999, axis=0).tolist()
    return statistics


def candidate_windows(
    dataset: Dataset,
    splits: Mapping[str, Sequence[int]],
    protocol: Protocol,
    limits: Filter,
    statistics: Mapping[str, Statistics],
    corrected: Collection[int] = (),
) -> dict[str, np.ndarray]:
    """One entry a candidate window, ordered by episode and step, as columns of ``windows.parquet``.

    In the episodes ``corrected`` a policy acted but where a person did; ``to_correction`` is there the seconds to the
    person's next step, and NaN in demonstrations. The filter marks windows of every split; it only keeps training
    windows out of storage. Raises :class:`SigmaError` where no training window would be left, or none before which
    memory reads.
    """
    split_of = {episode: name for name in SPLITS for episode in splits[name]}
    unit = spread(statistics[ACTION])
    columns: dict[str, list[Any]] = {}
    for index, rows in read_usable(dataset, sorted(split_of)):
        steps = decision_steps(len(rows.action), protocol, split_of[index])
        norms = action_norm(rows.action, steps, protocol.horizon)
        motions = motion(rows.state, rows.action, unit, steps, protocol.horizon)
        reasons = filter_reasons(norms, motions, limits.min_action_norm, limits.min_motion)
        part = {
            "episode": np.full(len(steps), index),
            "step": steps,
            "split": np.full(len(steps), split_of[index], dtype=object),
            "task": rows.task[steps],
            "kept": np.array([not reason for reason in reasons], dtype=bool),
            "reason": np.array(reasons, dtype=object),
            "action_norm": norms,
            "motion": motions,
            "strided": is_strided(steps, len(rows.action), protocol.horizon),
            "intervention": rows.intervention[steps],
            "to_correction": seconds_to_correction(rows.intervention, dataset.fps)[steps]
            if index in corrected
            else np.full(len(steps), np.nan, dtype=np.float32),
        }
        for column, values in part.items():
            columns.setdefault(column, []).append(values)
    windows = {name: np.concatenate(values) for name, values in columns.items()}
    train = windows["split"] == "train"
    if not windows["kept"][train].any():
        raise SigmaError(
            "params.yaml: window.min_action_norm, window.min_motion: no training window is left; the medians are "
            f"{np.median(windows['action_norm'][train]):.3g} and {np.median(windows['motion'][train]):.3g}"
        )
    if not windows["step"][train & windows["kept"]].any():
        raise SigmaError(
            f"{dataset.root}: every train decision is the first of its episode, so that memory would never be read; "
            f"legal: episodes of more than params.yaml: window.train_stride ({protocol.train_stride}) frames"
        )
    return windows


def stored_windows(windows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which candidates are stored: every held-out window and every kept training window, bool [W]."""
    return (windows["split"] != "train") | windows["kept"]


def count_windows(windows: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """By split: candidates, kept and strided ones, and those filtered for each reason."""
    flags: dict[str, Any] = {"candidates": True, "kept": windows["kept"], "strided": windows["strided"]}
    flags |= {reason: windows["reason"] == reason for reason in ("min_action_norm", "min_motion")}
    flags |= {"corrections": windows["intervention"]}
    flags["autonomous"] = ~windows["intervention"] & ~np.isnan(windows["to_correction"])
    return {
        name: {key: int(((windows["split"] == name) & flag).sum()) for key, flag in flags.items()} for name in SPLITS
    }
