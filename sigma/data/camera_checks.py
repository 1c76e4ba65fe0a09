"""Checks of the cameras, on thumbnails of every decoded frame. Each says its unit and why it matters."""

from collections.abc import Iterator

import numpy as np

from sigma.data.measures import AuditedEpisode, Measure
from sigma.data.source import STATE
from sigma.data.table_checks import runs

# Grey levels of 255. Codec noise moves a block's mean by less than STILL; a covered lens or a lost signal has neither
# brightness nor contrast.
STILL, DARK, FLAT = 1.0, 8.0, 2.0
# A camera that sees nothing move while a joint travels this share of its range is frozen, not watching a still scene.
TRAVEL = 0.05


def video_length(audited: AuditedEpisode) -> Iterator[Measure]:
    """Steps for which a camera holds no frame, or more than one. Image and state would no longer belong together."""
    expected = np.arange(audited.episode.length)
    for camera, trace in audited.cameras.items():
        missing = np.setdiff1d(expected, trace.steps)
        extra = len(trace.steps) - len(np.unique(trace.steps)) + int((trace.steps >= len(expected)).sum())
        if len(missing) or extra or trace.error:
            first, last = (int(missing[0]), int(missing[-1])) if len(missing) else (-1, -1)
            detail = f"{camera}: {len(missing)} frames missing, {extra} too many"
            yield Measure(max(len(missing) + extra, 1), first, last, "; ".join(filter(None, [detail, trace.error])))


def image_size(audited: AuditedEpisode) -> Iterator[Measure]:
    """Frames whose size is not the declared one: the camera's mode changed, and with it its view."""
    for camera, trace in audited.cameras.items():
        if len(trace.misfits):
            yield Measure(len(trace.misfits), int(trace.misfits[0]), int(trace.misfits[-1]), camera)


def blank_camera(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of a camera's frames that are dark or of one colour: covered, unplugged, or a decoder's filler."""
    for camera, trace in audited.cameras.items():
        flat = trace.thumbnails.reshape(len(trace.steps), -1)
        blank = (flat.mean(axis=1) < DARK) | (flat.std(axis=1) < FLAT)
        if blank.any():
            steps = trace.steps[blank]
            yield Measure(float(blank.mean()), int(steps[0]), int(steps[-1]), camera)


def frozen_camera(audited: AuditedEpisode) -> Iterator[Measure]:
    """Seconds over which a camera's picture stands still while a joint travels: the stream had stalled."""
    state, span = audited.rows.state, audited.summary.span(STATE)
    for camera, trace in audited.cameras.items():
        still = np.abs(np.diff(trace.thumbnails, axis=0)).max(axis=(1, 2), initial=0.0) < STILL
        for first, last in runs(still):
            begin, end = int(trace.steps[first]), int(trace.steps[last + 1])
            during = state[begin : end + 1]
            if len(during) and np.nanmax(np.ptp(during, axis=0) / span) > TRAVEL:
                yield Measure((end - begin) / audited.dataset.fps, begin, end, camera)


CAMERA_CHECKS = (video_length, image_size, blank_camera, frozen_camera)
