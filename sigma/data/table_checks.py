"""Checks of the tables: rows, time, joints, tasks and stored statistics. Each says its unit and why it matters."""

from collections.abc import Iterator

import numpy as np

from sigma.data.measures import AuditedEpisode, Measure, Summary
from sigma.data.source import ACTION, STATE


def runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]])))
    for first, after in edges.reshape(-1, 2):
        yield int(first), int(after) - 1


def stale_statistics(summary: Summary) -> Iterator[Measure]:
    """Difference of stored and actual mean, deviation, minimum or maximum, as a fraction of the joint's range.

    ``meta/stats.json`` that belongs to other data (edited, merged, converted) normalises a policy wrongly. Quantiles
    are not compared: LeRobot's are estimates.
    """
    for feature in (STATE, ACTION):
        actual = {"min": summary.low, "max": summary.high, "mean": summary.mean, "std": summary.std}
        for name, values in actual.items():
            stored = np.asarray(summary.stored.get(feature, {}).get(name, values[feature]), dtype=np.float64).ravel()
            if stored.shape != values[feature].shape:
                yield Measure(1.0, detail=f"{feature}.{name}: {stored.size} values for {values[feature].size} joints")
                continue
            off = np.abs(stored - values[feature]) / summary.span(feature)
            yield Measure(float(off.max()), detail=f"{feature}.{name} of joint {int(off.argmax())}")


def row_count(audited: AuditedEpisode) -> Iterator[Measure]:
    """Rows more or fewer than declared. Episodes whose table and metadata disagree cannot be cut into windows."""
    rows, declared = len(audited.rows.state), audited.episode.length
    yield Measure(abs(rows - declared), detail=f"{rows} rows, {declared} declared")


def row_order(audited: AuditedEpisode) -> Iterator[Measure]:
    """Rows whose frame_index is not their position. A window takes neighbouring rows for neighbouring moments."""
    wrong = np.flatnonzero(audited.rows.frame_index != np.arange(len(audited.rows.frame_index)))
    if len(wrong):
        yield Measure(len(wrong), int(wrong[0]), int(wrong[-1]), "frame_index does not count 0, 1, 2, …")


def short_episode(audited: AuditedEpisode) -> Iterator[Measure]:
    """Frames missing to ``audit.min_frames``. An episode shorter than a window gives no held-out window at all."""
    yield Measure(max(audited.min_frames - audited.episode.length, 0), detail=f"{audited.episode.length} frames")


def non_finite(audited: AuditedEpisode) -> Iterator[Measure]:
    """Values of state, action or time that are NaN or infinite. One of them turns a whole batch's loss into NaN."""
    rows = audited.rows
    bad = ~(np.isfinite(rows.state).all(axis=1) & np.isfinite(rows.action).all(axis=1) & np.isfinite(rows.timestamp))
    count = sum(int((~np.isfinite(values)).sum()) for values in (rows.state, rows.action, rows.timestamp))
    if count:
        yield Measure(count, int(np.flatnonzero(bad)[0]), int(np.flatnonzero(bad)[-1]), "NaN or infinity")


def timestamp_gap(audited: AuditedEpisode) -> Iterator[Measure]:
    """Worst deviation of a time step from 1 / fps, in frame periods; the first frame must be at time 0.

    A dropped frame makes the chunk's actions span more time than the policy will take to play them.
    """
    ticks = audited.rows.timestamp * audited.dataset.fps
    deviation = np.abs(np.diff(ticks, prepend=-1.0) - 1)
    if len(deviation):
        worst = int(np.nanargmax(deviation)) if np.isfinite(deviation).any() else 0
        yield Measure(float(deviation[worst]), worst, worst, "a time step is not 1 / fps")


def missing_task(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames without an instruction. The policy is conditioned on text; an empty one says to ignore it."""
    texts = audited.dataset.tasks
    known = {index for index, text in enumerate(texts) if text.strip()}
    missing = np.array([int(task) not in known for task in audited.rows.task], dtype=bool)
    if missing.any():
        first, last = np.flatnonzero(missing)[[0, -1]]
        yield Measure(float(missing.mean()), int(first), int(last), "no task text")


def duplicate_episode(audited: AuditedEpisode) -> Iterator[Measure]:
    """1 where state and action repeat an earlier episode bit by bit. A copy in the test split is a leak."""
    earlier = audited.summary.repeats.get(audited.episode.index)
    if earlier is not None:
        yield Measure(1.0, detail=f"same state and action as episode {earlier}")


def frozen_state(audited: AuditedEpisode) -> Iterator[Measure]:
    """Seconds over which the whole state is bit-identical. Real encoders are noisy: the bus or recorder had stalled.

    Actions then answer an observation that is seconds old.
    """
    state, action = audited.rows.state, audited.rows.action
    for first, last in runs((np.diff(state, axis=0) == 0).all(axis=1)):
        commanded = np.ptp(action[first : last + 2], axis=0) / audited.summary.span(ACTION)
        detail = f"actions meanwhile covered {100 * float(np.nanmax(commanded)):.0f} % of a joint's range"
        yield Measure((last - first + 1) / audited.dataset.fps, first, last + 1, detail)


def dead_joint(audited: AuditedEpisode) -> Iterator[Measure]:
    """Commanded travel, as a fraction of the joint's action range, of a joint whose state never changes in the episode.

    A motor or encoder that does not answer: the data teaches that this action has no effect.
    """
    state, action = audited.rows.state, audited.rows.action
    if len(state) < 2:
        return
    dead = (state == state[:1]).all(axis=0)
    travel = np.ptp(action, axis=0) / audited.summary.span(ACTION)
    for joint in np.flatnonzero(dead):
        yield Measure(float(travel[joint]), 0, len(state) - 1, audited.dataset.joint_names[joint])


def saturated_joint(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames in which a joint sits bit-exactly at the dataset's lowest or highest value.

    A clipped sensor does that, and a joint at its stop: there the state no longer answers the action.
    """
    state, summary = audited.rows.state, audited.summary
    moving = summary.high[STATE] > summary.low[STATE]
    clipped = ((state == summary.low[STATE]) | (state == summary.high[STATE])) & moving
    share = clipped.mean(axis=0) if len(state) else np.zeros(0)
    for joint in np.flatnonzero(share):
        frames = np.flatnonzero(clipped[:, joint])
        yield Measure(float(share[joint]), int(frames[0]), int(frames[-1]), audited.dataset.joint_names[joint])


def jump(audited: AuditedEpisode) -> Iterator[Measure]:
    """Largest change of a joint's state in one step, as a fraction of its range over the dataset.

    An arm cannot cross its range in a frame: a wrapped encoder, a dropped stretch, or two episodes in one.
    """
    moved = np.abs(np.diff(audited.rows.state, axis=0)) / audited.summary.span(STATE)
    if np.isfinite(moved).any():
        step, joint = np.unravel_index(int(np.nanargmax(moved)), moved.shape)
        detail = audited.dataset.joint_names[joint]
        yield Measure(float(moved[step, joint]), int(step), int(step) + 1, detail)


DATASET_CHECKS = (stale_statistics,)
TABLE_CHECKS = (
    row_count,
    row_order,
    short_episode,
    non_finite,
    timestamp_gap,
    missing_task,
    duplicate_episode,
    frozen_state,
    dead_joint,
    saturated_joint,
    jump,
)
