"""Checks of the cameras, on thumbnails of every decoded frame. Each says its unit and why it matters."""

from collections.abc import Iterator

import numpy as np

from sigma.data.audit.check import CheckGroup
from sigma.data.audit.measures import TRAVEL, CameraCheck, FilmedEpisode, Measure
from sigma.data.audit.thumbnails import CameraTrace

# Grey levels of 255. Codec noise moves a block's mean by up to about 2; a covered lens or a lost signal has neither
# brightness nor contrast, and one that looks into a lamp has nothing but brightness.
STILL, DARK, BRIGHT, FLAT = 3.0, 8.0, 247.0, 2.0
# Two pictures whose most different blocks are this many grey levels apart have nothing to do with each other; a copy
# that was encoded again stays within STILL.
UNLIKE = 10.0

CAMERAS = CheckGroup[CameraCheck]()


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """How alike two films' thumbnails [n, GRID, GRID] are over as many moments as both have: 1 where they are equal, 0
    where on average the most different blocks are UNLIKE apart, or where one has no frame.
    """
    moments = min(len(first), len(second))
    if not moments:
        return 0.0
    apart = np.abs(first[:moments].astype(np.float32) - second[:moments]).max(axis=(1, 2)).mean()
    return float(max(1 - apart / UNLIKE, 0.0))


@CAMERAS.check(warn=None, fail=0.0, unit="frames", reason="a count: the window stage would stop there")
def undecodable_video(filmed: FilmedEpisode) -> Iterator[Measure]:
    """Frames that could not be decoded because the file broke off or cannot be read. The window stage would stop there,
    hours later, so the episode is named now.
    """
    for camera, trace in filmed.cameras.items():
        if trace.error:
            lost = max(filmed.episode.length - len(trace.steps), 1)
            first = int(trace.steps[-1]) + 1 if len(trace.steps) else 0
            yield Measure(lost, first, filmed.episode.length - 1, camera, trace.error)


@CAMERAS.check(warn=None, fail=0.0, unit="0 or 1", reason="yes or no")
def missing_camera(filmed: FilmedEpisode) -> Iterator[Measure]:
    """1 for a camera that has not a single frame of the episode although its file can be read. It was not plugged in,
    or the episode's place in the file is wrong; the policy would have to act with one eye shut.
    """
    for camera, trace in filmed.cameras.items():
        if filmed.episode.length and not len(trace.steps) and not trace.error:
            yield Measure(1.0, 0, filmed.episode.length - 1, camera, "no frame at all")


@CAMERAS.check(warn=None, fail=0.0, unit="frames", reason="a count: the window stage would stop there")
def video_length(filmed: FilmedEpisode) -> Iterator[Measure]:
    """Steps for which a camera holds no frame, or more than one. From there on image and state would not belong
    together, or the window stage would stop for want of an image.
    """
    expected = np.arange(filmed.episode.length)
    for camera, trace in filmed.cameras.items():
        if trace.error or not len(trace.steps):
            continue
        missing = np.setdiff1d(expected, trace.steps)
        extra = len(trace.steps) - len(np.unique(trace.steps)) + int((trace.steps >= len(expected)).sum())
        if len(missing) or extra:
            first, last = (int(missing[0]), int(missing[-1])) if len(missing) else (-1, -1)
            yield Measure(len(missing) + extra, first, last, camera, f"{len(missing)} missing, {extra} too many")


@CAMERAS.check(warn=None, fail=0.0, unit="frames", reason="a count: sizes are declared")
def image_size(filmed: FilmedEpisode) -> Iterator[Measure]:
    """Frames whose size is not the declared one. The camera's mode changed, and with it what part of the scene it shows
    and where in the image things are.
    """
    for camera, trace in filmed.cameras.items():
        if len(trace.misfits):
            yield Measure(len(trace.misfits), int(trace.misfits[0]), int(trace.misfits[-1]), camera, "another size")


def blank_frames(trace: CameraTrace) -> np.ndarray:
    """Frames that are black, white or of one colour, bool [m]."""
    mean, contrast = trace.thumbnails.mean(axis=(1, 2)), trace.thumbnails.std(axis=(1, 2))
    return (mean < DARK) | (mean > BRIGHT) | (contrast < FLAT)


@CAMERAS.check(
    warn=0.0,
    fail=0.5,
    unit="share of frames",
    reason="any blank frame is worth a look; an episode with half of its frames blank teaches acting blindly",
)
def blank_camera(filmed: FilmedEpisode) -> Iterator[Measure]:
    """Share of a camera's frames that are black, white or of one colour. It was covered, dazzled or unplugged; nothing
    can be learnt from such frames but to act blindly.
    """
    for camera, trace in filmed.cameras.items():
        blank = blank_frames(trace)
        if blank.any():
            steps, level = trace.steps[blank], float(trace.thumbnails[blank].mean())
            detail = f"mean grey level {level:.0f} of 255"
            yield Measure(float(blank.mean()), int(steps[0]), int(steps[-1]), camera, detail)


def _still_runs(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of runs whose frames all look like the run's first: slow motion adds up and ends a run."""
    first = 0
    for index in range(1, len(thumbnails) + 1):
        if index == len(thumbnails) or np.abs(thumbnails[index] - thumbnails[first]).max() >= STILL:
            if index - 1 > first:
                yield first, index - 1
            first = index


@CAMERAS.check(
    warn=0.5,
    fail=2.0,
    unit="seconds",
    reason="five frames at 10 Hz are a hiccup; 2 s are longer than a window's horizon of 1.6 s",
)
def frozen_camera(filmed: FilmedEpisode) -> Iterator[Measure]:
    """Seconds over which a camera's picture stands still while a joint travels 5 % of its range. The stream had
    stalled, and the policy acts on a picture of the past. Blank frames have their own check.
    """
    for camera, trace in filmed.cameras.items():
        blank = blank_frames(trace)
        for first, last in _still_runs(trace.thumbnails):
            begin, end = int(trace.steps[first]), int(trace.steps[last])
            during = filmed.position[begin : end + 1]
            if blank[first] or not len(during):
                continue
            travel = float(np.nan_to_num(np.ptp(during, axis=0)).max())
            if travel > TRAVEL:
                detail = f"a joint meanwhile covered {100 * travel:.0f} % of its range"
                yield Measure((end - begin) / filmed.fps, begin, end, camera, detail)


@CAMERAS.check(
    warn=None,
    fail=0.5,
    unit="likeness, 0 to 1",
    reason="half way between equal pictures and pictures 10 grey levels apart in their most different block",
)
def twin_cameras(filmed: FilmedEpisode) -> Iterator[Measure]:
    """Likeness of two cameras' pictures, 1 where they are the same. Two keys of the recorder were given one device, and
    the other view was never recorded.
    """
    signatures = {camera: trace.signature(filmed.fps) for camera, trace in filmed.cameras.items()}
    for place, (camera, signature) in enumerate(signatures.items()):
        if not blank_frames(filmed.cameras[camera]).all():
            for earlier in list(signatures)[:place]:
                value = likeness(signature, signatures[earlier])
                yield Measure(value, detail=f"{camera} shows what {earlier} shows")
