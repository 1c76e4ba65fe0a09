"""Checks of an episode's rows: counters, time and tasks."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from sigma.data.audit.check import CheckGroup
from sigma.data.audit.measures import AuditedEpisode, EpisodeCheck, Measure

ROWS = CheckGroup[EpisodeCheck]()


def _frames(flags: ArrayLike) -> tuple[int, int]:
    """The first and the last flagged frame."""
    marked = np.flatnonzero(flags)
    return int(marked[0]), int(marked[-1])


@ROWS.check(warn=None, fail=0.0, unit="rows", reason="a count: any row out of place is a fault")
def row_order(audited: AuditedEpisode) -> Iterator[Measure]:
    """Rows whose frame_index is not their position: a gap, a repetition or a shuffle. A window takes neighbouring rows
    for neighbouring moments, and the video's frame of a step by the step's number.
    """
    wrong = audited.rows.frame_index != np.arange(audited.rows.count)
    if wrong.any():
        yield Measure(int(wrong.sum()), *_frames(wrong), detail="frame_index does not count 0, 1, 2, …")


@ROWS.check(warn=None, fail=0.0, unit="rows", reason="a count: any number that is left out is a fault")
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


@ROWS.check(warn=None, fail=0.0, unit="values", reason="a count: one value spoils statistics and losses")
def non_finite(audited: AuditedEpisode) -> Iterator[Measure]:
    """Values of state, action or time that are missing, NaN or infinite. One of them turns a whole batch's loss, and
    every statistic, into NaN.
    """
    rows = audited.rows
    bad = np.column_stack([~np.isfinite(values) for values in (rows.state, rows.action, rows.timestamp)])
    if bad.any():
        yield Measure(int(bad.sum()), *_frames(bad.any(axis=1)), detail="missing, NaN or infinite")


@ROWS.check(warn=None, fail=0.0, unit="time steps", reason="a count: time never stands still")
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


@ROWS.check(
    warn=0.05,
    fail=0.5,
    unit="time steps",
    reason="a twentieth of a step is jitter of a good clock; half a step is the next frame",
)
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


@ROWS.check(
    warn=0.01,
    fail=0.2,
    unit="share of fps",
    reason="1 % is three frames in ten seconds at 30 Hz; at 20 % a horizon of 16 steps ends three steps off",
)
def clock_rate(audited: AuditedEpisode) -> Iterator[Measure]:
    """Relative difference of the rows' own rate from the declared fps. Actions would be played faster or slower than
    they were recorded, and image and state drift apart over the episode.
    """
    step = _usual_step(audited.rows.timestamp)
    if np.isfinite(step):
        rate, fps = 1 / step, audited.dataset.fps
        yield Measure(abs(rate / fps - 1), detail=f"{rate:.4g} rows a second, {fps} declared")


@ROWS.check(warn=None, fail=0.0, unit="share of frames", reason="a share: no frame may be without an instruction")
def missing_task(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames whose instruction is empty. The policy is conditioned on text; an empty one teaches it to ignore
    what it is told.
    """
    empty = [index for index, text in enumerate(audited.dataset.tasks) if not text.strip()]
    missing = np.isin(audited.rows.task, empty)
    if missing.any():
        yield Measure(float(missing.mean()), *_frames(missing), detail="no task text")


@ROWS.check(warn=None, fail=0.0, unit="share of frames", reason="a share: no frame may have an unlisted task")
def unknown_task(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames whose task_index ``meta/tasks.parquet`` does not list. Nobody can say what was asked of the
    robot: the list was cut, or the episode comes from another dataset.
    """
    task = audited.rows.task
    unknown = (task < 0) | (task >= len(audited.dataset.tasks))
    if unknown.any():
        first, last = _frames(unknown)
        yield Measure(float(unknown.mean()), first, last, detail=f"task_index {task[first]} is not listed")


@ROWS.check(
    warn=0.3,
    fail=0.8,
    unit="share of frames",
    reason="a rest pose at both ends takes up to a third of a short episode; four fifths are a copy",
)
def duplicate_episode(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of frames whose state and action an earlier episode has too, to within a cell of 1 % of each joint's range.

    A copy in the test split is a leak, one in the train split counts twice. Frames are looked up whatever their order,
    so that a shuffled, cut or slightly altered copy is found; two recordings of the same task share few of them.
    """
    share, earlier = audited.summary.repeats.get(audited.episode.index, (0.0, -1))
    yield Measure(share, detail=f"in episode {earlier} too")
