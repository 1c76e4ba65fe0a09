"""What the audit keeps of a camera's frames: small grey thumbnails instead of images."""

from dataclasses import dataclass

import numpy as np

from sigma.data.source import Dataset, Episode
from sigma.data.video import decode
from sigma.errors import SigmaError

GRID = 16


@dataclass(frozen=True)
class CameraTrace:
    """One camera over one episode.

    ``steps`` int64 [m] are the decoded steps in file order; ``thumbnails`` float32 [m, GRID, GRID] are grey levels in
    0..255, averaged over blocks, which removes most of the codec's noise; ``misfits`` are steps whose image has another
    size than declared; ``error`` says why decoding stopped early, else it is empty.
    """

    steps: np.ndarray
    thumbnails: np.ndarray
    misfits: np.ndarray
    error: str


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Block means of the grey image, float32 [GRID, GRID], of uint8 [H, W, 3]; smaller images repeat pixels."""
    grey = image.sum(axis=2, dtype=np.uint16).astype(np.float32) / 3
    for axis, size in enumerate(grey.shape):
        if size < GRID:
            grey = np.repeat(grey, -(-GRID // size), axis=axis)
    edges = [np.linspace(0, size, GRID, endpoint=False).astype(int) for size in grey.shape]
    sums = np.add.reduceat(np.add.reduceat(grey, edges[0], axis=0), edges[1], axis=1)
    areas = np.outer(*(np.diff([*edge, size]) for edge, size in zip(edges, grey.shape, strict=True)))
    return (sums / areas).astype(np.float32)


def trace_camera(dataset: Dataset, episode: Episode, camera: str) -> CameraTrace:
    """Decode one camera of one episode once; a file that cannot be decoded ends the trace and is noted."""
    declared = dataset.cameras[camera]
    steps, thumbnails, misfits, error = [], [], [], ""
    try:
        for step, image in decode(dataset, episode, camera):
            steps.append(step)
            thumbnails.append(thumbnail(image))
            if image.shape[:2] != (declared.height, declared.width):
                misfits.append(step)
    except SigmaError as fault:
        error = str(fault)
    return CameraTrace(
        np.array(steps, dtype=np.int64),
        np.array(thumbnails, dtype=np.float32).reshape(len(steps), GRID, GRID),
        np.array(misfits, dtype=np.int64),
        error,
    )
