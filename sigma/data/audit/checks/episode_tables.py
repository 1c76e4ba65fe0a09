"""Checks of the tables: rows, counters, time and tasks. Each says its unit and why it matters."""

from collections.abc import Iterator

import numpy as np

from sigma.data.audit.measures import AuditedEpisode, Measure, Summary
from sigma.data.dataset.dataset import ACTION, STATE


def runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]])))
    for first, after in edges.reshape(-1, 2):
        yield int(first), int(after) - 1


def _frames(flags: np.ndarray) -> tuple[int, int]:
    """The first and the last flagged frame."""
    marked = np.flatnonzero(flags)
    return int(marked[0]), int(marked[-1])


def stale_statistics(summary: Summary) -> Iterator[Measure]:
    """Difference of stored and actual mean, deviation, minimum or maximum, as a share of the joint's range.

    ``meta/stats.json`` that belongs to other data (edited, merged, converted) normalises a policy wrongly in every tool
    that trusts it. Sigma computes its own statistics, so this warns. Quantiles are not compared: LeRobot's are
    estimates.
    """
    for feature in (STATE, ACTION):
        actual = {"min": summary.low, "max": summary.high, "mean": summary.mean, "std": summary.std}
        for name, values in actual.items():
            try:
                stored = np.asarray(summary.stored[feature][name], dtype=np.float64).ravel()
            except (KeyError, IndexError):
                continue
            except (TypeError, ValueError):
                yield Measure(1.0, detail=f"{feature}.{name} is no list of numbers")
                continue
            if stored.shape != values[feature].shape:
                detail = f"{feature}.{name}: {stored.size} values for {values[feature].size} joints"
                yield Measure(1.0, detail=detail)
                continue
            off = np.abs(stored - values[feature]) / summary.span[feature]
            yield Measure(float(off.max()), detail=f"{feature}.{name} of joint {int(off.argmax())}")


def frame_total(summary: Summary) -> Iterator[Measure]:
    """Rows of the tables that no listed episode owns, or frames by which meta/info.json's total misses its episodes.

    Such rows are recorded work that no reader sees: an episode was dropped from the metadata alone, or lies in another
    file than the metadata says. A wrong total makes LeRobot's readers end too soon or run past the end.
    """
    yield Measure(summary.strays, detail=f"{summary.strays} rows belong to no episode in the file that they lie in")
    detail = f"total_frames is {summary.frame_excess:+d} beside the episodes' lengths"
    yield Measure(abs(summary.frame_excess), detail=detail)


def wrong_type(audited: AuditedEpisode) -> Iterator[Measure]:
    """1 for a column of another type than meta/info.json declares, 2 for one that is missing or of another shape.

    Another type loses digits unseen (a state stored as whole numbers moves in steps); a vector of another length is
    another robot's. What cannot be read is not judged further: the other checks leave the episode's rows alone.
    """
    for column, (level, detail) in audited.rows.faults.items():
        yield Measure(level, detail=f"column {column!r} {detail}")


def row_count(audited: AuditedEpisode) -> Iterator[Measure]:
    """Rows more or fewer than the metadata declares. Table and metadata that disagree cannot be cut into windows, and
    one of them no longer belongs to the video.
    """
    rows, declared = audited.rows.count, audited.episode.length
    yield Measure(abs(rows - declared), detail=f"{rows} rows, {declared} declared")


def video_span(audited: AuditedEpisode) -> Iterator[Measure]:
    """Frames by which the part of a video that the metadata gives the episode misses its length, or begins before an
    earlier episode's part has ended. The last frames, or the first, would be another episode's.
    """
    for camera, (begin, end) in audited.declared.spans.items():
        frames = (end - begin) * audited.dataset.fps
        detail = f"{frames:.6g} frames of video for {audited.episode.length} declared"
        yield Measure(abs(frames - audited.episode.length), subject=camera, detail=detail)
        overlap = audited.summary.overlaps.get((audited.episode.index, camera), 0.0)
        yield Measure(overlap, subject=camera, detail="begins before an earlier episode's part has ended")


def short_episode(audited: AuditedEpisode) -> Iterator[Measure]:
    """Frames missing to ``audit.min_frames``. An episode shorter than a window's horizon gives no held-out window at
    all, and its training windows are mostly padding: often a recording that was aborted.
    """
    yield Measure(
        max(audited.settings.min_frames - audited.episode.length, 0), detail=f"{audited.episode.length} frames"
    )


def row_order(audited: AuditedEpisode) -> Iterator[Measure]:
    """Rows whose frame_index is not their position: a gap, a repetition or a shuffle. A window takes neighbouring rows
    for neighbouring moments, and the video's frame of a step by the step's number.
    """
    wrong = audited.rows.frame_index != np.arange(audited.rows.count)
    if wrong.any():
        yield Measure(int(wrong.sum()), *_frames(wrong), detail="frame_index does not count 0, 1, 2, …")


def index_gap(audited: AuditedEpisode) -> Iterator[Measure]:
    """Rows whose global index does not go on from the row before, or numbers between an episode and the one before it.

    LeRobot's readers find frames and episodes by the global index: with a gap they read rows of a neighbour, and the
    gap itself says that rows were taken out after recording.
    """
    index, indices = audited.rows.index, audited.declared.indices
    if indices is not None:
        begin, end = indices
        detail = f"episode declared from index {begin} to {end}, the one before ends at {audited.declared.before}"
        yield Measure(abs(begin - audited.declared.before) + abs(end - begin - audited.episode.length), detail=detail)
    if len(index):
        begin = index[0] if indices is None else indices[0]
        wrong = np.diff(index, prepend=begin - 1) != 1
        if wrong.any():
            detail = f"index {index[0]} to {index[-1]}, declared from {begin}"
            yield Measure(int(wrong.sum()), *_frames(wrong), detail=detail)


def non_finite(audited: AuditedEpisode) -> Iterator[Measure]:
    """Values of state, action or time that are missing, NaN or infinite. One of them turns a whole batch's loss, and
    every statistic, into NaN.
    """
    rows = audited.rows
    bad = np.column_stack([~np.isfinite(values) for values in (rows.state, rows.action, rows.timestamp)])
    if bad.any():
        yield Measure(int(bad.sum()), *_frames(bad.any(axis=1)), detail="missing, NaN or infinite")


def timestamp_order(audited: AuditedEpisode) -> Iterator[Measure]:
    """Time steps that do not go forward. Rows were shuffled, or the clock was set back; LeRobot finds a row's image by
    its time, so that images repeat or come from before.
    """
    back = np.diff(audited.rows.timestamp) <= 0
    if back.any():
        first, last = _frames(back)
        yield Measure(int(back.sum()), first, last + 1, detail="time does not go forward")


def _usual_step(timestamp: np.ndarray) -> float:
    """The median time between rows that goes forward, in seconds; NaN where there is none."""
    steps = np.diff(timestamp)
    steps = steps[np.isfinite(steps) & (steps > 0)]
    return float(np.median(steps)) if len(steps) else np.nan


def timestamp_gap(audited: AuditedEpisode) -> Iterator[Measure]:
    """Worst deviation of a time step from the episode's usual one, or of the first row from time 0, in steps.

    A dropped frame makes a chunk of actions span more time than the policy will take to play it. A clock that is wrong
    throughout has its own check.
    """
    time = audited.rows.timestamp
    if len(time) and np.isfinite(time[0]):
        yield Measure(abs(float(time[0])) * audited.dataset.fps, 0, 0, detail="the first row is not at time 0")
    deviation = np.abs(np.diff(time) / _usual_step(time) - 1)
    if np.isfinite(deviation).any():
        worst = int(np.nanargmax(deviation))
        yield Measure(float(deviation[worst]), worst, worst + 1, detail="a time step unlike the others")


def clock_rate(audited: AuditedEpisode) -> Iterator[Measure]:
    """Relative difference of the rows' own rate from the declared fps. Actions would be played faster or slower than
    they were recorded, and image and state drift apart over the episode.
    """
    step = _usual_step(audited.rows.timestamp)
    if np.isfinite(step):
        rate = 1 / step
        yield Measure(
            abs(rate / audited.dataset.fps - 1), detail=f"{rate:.4g} rows a second, {audited.dataset.fps} declared"
        )


def missing_task(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames whose instruction is empty. The policy is conditioned on text; an empty one teaches it to ignore
    what it is told.
    """
    empty = [index for index, text in enumerate(audited.dataset.tasks) if not text.strip()]
    missing = np.isin(audited.rows.task, empty)
    if missing.any():
        yield Measure(float(missing.mean()), *_frames(missing), detail="no task text")


def unknown_task(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames whose task_index ``meta/tasks.parquet`` does not list. Nobody can say what was asked of the
    robot: the list was cut, or the episode comes from another dataset.
    """
    task = audited.rows.task
    unknown = (task < 0) | (task >= len(audited.dataset.tasks))
    if unknown.any():
        first, last = _frames(unknown)
        yield Measure(float(unknown.mean()), first, last, detail=f"task_index {task[first]} is not listed")


def duplicate_episode(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames whose state and action an earlier episode has too, to within a cell of 1 % of each joint's range.

    A copy in the test split is a leak, one in the train split counts twice. Frames are looked up whatever their order,
    so that a shuffled, cut or slightly altered copy is found; two recordings of the same task share few of them.
    """
    share, earlier = audited.summary.repeats.get(audited.episode.index, (0.0, -1))
    yield Measure(share, detail=f"in episode {earlier} too")


DATASET_CHECKS = (stale_statistics, frame_total)
STRUCTURE_CHECKS = (wrong_type, row_count, video_span, short_episode)
ROW_CHECKS = (
    row_order,
    index_gap,
    non_finite,
    timestamp_order,
    timestamp_gap,
    clock_rate,
    missing_task,
    unknown_task,
    duplicate_episode,
)
