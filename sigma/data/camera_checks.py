"""Checks of the cameras, on thumbnails of every decoded frame. Each says its unit and why it matters."""

from collections.abc import Iterator

import numpy as np

from sigma.data.measures import AuditedEpisode, Measure
from sigma.data.source import STATE
from sigma.data.trace import CameraTrace

# Grey levels of 255. Codec noise moves a block's mean by up to about 2; a covered lens or a lost signal has neither
# brightness nor contrast.
STILL, DARK, FLAT = 3.0, 8.0, 2.0
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
    """Frames whose size is not the declared one. The camera's mode changed, and with it its view."""
    for camera, trace in audited.cameras.items():
        if len(trace.misfits):
            yield Measure(len(trace.misfits), int(trace.misfits[0]), int(trace.misfits[-1]), camera)


def _blank(trace: CameraTrace) -> np.ndarray:
    """Frames that are dark or of one colour, bool [m]."""
    return (trace.thumbnails.mean(axis=(1, 2)) < DARK) | (trace.thumbnails.std(axis=(1, 2)) < FLAT)


def blank_camera(audited: AuditedEpisode) -> Iterator[Measure]:
    """Share of a camera's frames that are dark or of one colour. It was covered or unplugged; nothing can be learnt."""
    for camera, trace in audited.cameras.items():
        blank = _blank(trace)
        if blank.any():
            steps = trace.steps[blank]
            yield Measure(float(blank.mean()), int(steps[0]), int(steps[-1]), camera)


def _still_runs(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of runs whose frames all look like the run's first: slow motion adds up and ends a run."""
    first = 0
    for index in range(1, len(thumbnails) + 1):
        if index == len(thumbnails) or np.abs(thumbnails[index] - thumbnails[first]).max() >= STILL:
            if index - 1 > first:
                yield first, index - 1
            first = index


def frozen_camera(audited: AuditedEpisode) -> Iterator[Measure]:
    """Seconds over which a camera's picture stands still while a joint travels. The stream had stalled.

    The policy then acts on a picture of the past. Blank frames have their own check.
    """
    state, span = audited.rows.state, audited.summary.span(STATE)
    for camera, trace in audited.cameras.items():
        blank = _blank(trace)
        for first, last in _still_runs(trace.thumbnails):
            begin, end = int(trace.steps[first]), int(trace.steps[last])
            during = state[begin : end + 1]
            if blank[first] or len(during) == 0:
                continue
            if np.nanmax(np.ptp(during, axis=0) / span) > TRAVEL:
                yield Measure((end - begin) / audited.dataset.fps, begin, end, camera)


CAMERA_CHECKS = (video_length, image_size, blank_camera, frozen_camera)
