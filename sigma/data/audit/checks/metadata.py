"""Checks of the metadata against the tables: statistics, totals, types, counts and lengths."""

from collections.abc import Iterator

import numpy as np

from sigma.data.audit.check import CheckGroup
from sigma.data.audit.measures import AuditedEpisode, DatasetCheck, EpisodeCheck, Measure, Summary
from sigma.data.dataset.dataset import ACTION, STATE

# Checks of the dataset as a whole, and of each episode whether or not its rows can be read.
DATASET = CheckGroup[DatasetCheck]()
STRUCTURE = CheckGroup[EpisodeCheck]()


@DATASET.check(
    warn=0.01,
    fail=None,
    unit="share of a joint's range",
    reason="float32 rounding moves a mean by less than 0.1 %; 1 % of a joint's range is other data",
)
def stale_statistics(summary: Summary) -> Iterator[Measure]:
    """Difference of stored and actual mean, deviation, minimum or maximum, as a share of the joint's range.

    ``meta/stats.json`` that belongs to other data (edited, merged, converted) normalises a policy wrongly in every tool
    that trusts it. Sigma computes its own statistics, so this warns. Quantiles are not compared: LeRobot's are
    estimates.
    """
    for feature in (STATE, ACTION):
        all_stored = summary.stored.get(feature, {})
        for name in [name for name in ("min", "max", "mean", "std") if name in all_stored]:
            stored = np.asarray(all_stored[name], dtype=np.float64).ravel()
            actual = summary.actual[feature][name]
            if stored.shape == actual.shape:
                off = np.abs(stored - actual) / summary.span[feature]
                yield Measure(float(off.max()), detail=f"{feature}.{name} of joint {int(off.argmax())}")
            else:
                yield Measure(1.0, detail=f"{feature}.{name}: {stored.size} values for {actual.size} joints")


@DATASET.check(warn=None, fail=0.0, unit="rows or frames", reason="a count: any difference is a fault")
def frame_total(summary: Summary) -> Iterator[Measure]:
    """Rows of the tables that no listed episode owns, or frames by which meta/info.json's total misses its episodes.

    Such rows are recorded work that no reader sees: an episode was dropped from the metadata alone, or lies in another
    file than the metadata says. A wrong total makes LeRobot's readers end too soon or run past the end.
    """
    yield Measure(summary.strays, detail=f"{summary.strays} rows belong to no episode in the file that they lie in")
    detail = f"total_frames is {summary.frame_excess:+d} beside the episodes' lengths"
    yield Measure(abs(summary.frame_excess), detail=detail)


@STRUCTURE.check(
    warn=0.0,
    fail=1.0,
    unit="level, 1 or 2",
    reason="another type may still hold the values: a warning; a column that cannot be read is a failure",
)
def wrong_type(audited: AuditedEpisode) -> Iterator[Measure]:
    """1 for a column of another type than meta/info.json declares, 2 for one that is missing or of another shape.

    Another type loses digits unseen (a state stored as whole numbers moves in steps); a vector of another length is
    another robot's. What cannot be read is not judged further: the other checks leave the episode's rows alone.
    """
    for column, (level, detail) in audited.rows.faults.items():
        yield Measure(level, detail=f"column {column!r} {detail}")


@STRUCTURE.check(warn=None, fail=0.0, unit="rows", reason="a count: any difference is a fault")
def row_count(audited: AuditedEpisode) -> Iterator[Measure]:
    """Rows more or fewer than the metadata declares. Table and metadata that disagree cannot be cut into windows, and
    one of them no longer belongs to the video.
    """
    rows, declared = audited.rows.count, audited.episode.length
    yield Measure(abs(rows - declared), detail=f"{rows} rows, {declared} declared")


@STRUCTURE.check(warn=0.0, fail=None, unit="0 or 1", reason="warns only: nothing is lost, as rows are found by index")
def misplaced_rows(audited: AuditedEpisode) -> Iterator[Measure]:
    """1 for an episode whose rows lie in another table of ``data/`` than meta/episodes says. LeRobot reads all tables
    and finds rows by their index, and so are they found here; a tool that trusts the metadata misses the episode.
    """
    yield Measure(float(audited.episode.misplaced), detail=f"the rows lie in {audited.episode.table}")


@STRUCTURE.check(
    warn=None,
    fail=0.5,
    unit="frames",
    reason="seconds are rounded to half a frame at most; from a whole frame on a picture is not its step's",
)
def video_span(audited: AuditedEpisode) -> Iterator[Measure]:
    """Frames by which the part of a video that the metadata gives the episode misses its length, or begins before an
    earlier episode's part has ended. The last frames, or the first, would be another episode's. Where the recorder lost
    a frame, all pictures after it are one step early.
    """
    for camera, (begin, end) in audited.declared.spans.items():
        frames = (end - begin) * audited.dataset.fps
        detail = f"{frames:.6g} frames of video for {audited.episode.length} declared"
        yield Measure(abs(frames - audited.episode.length), subject=camera, detail=detail)
        overlap = audited.summary.overlaps.get((audited.episode.index, camera), 0.0)
        yield Measure(overlap, subject=camera, detail="begins before an earlier episode's part has ended")


@STRUCTURE.check(
    warn=0.0,
    fail=None,
    unit="frames",
    reason="warns only: an episode shorter than a horizon can still be trained on, padded",
)
def short_episode(audited: AuditedEpisode) -> Iterator[Measure]:
    """Frames missing to ``audit.min_frames``. The windows of an episode shorter than a horizon are mostly padding:
    often a recording that was aborted.
    """
    length = audited.episode.length
    yield Measure(max(audited.settings.min_frames - length, 0), detail=f"{length} frames")
