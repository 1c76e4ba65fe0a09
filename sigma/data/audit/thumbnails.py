"""What the audit keeps of a camera's frames: small grey thumbnails instead of images."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from sigma.data.dataset.dataset import Dataset, Episode
from sigma.data.dataset.video import decode
from sigma.shared.errors import SigmaError

GRID = 16
# A large image is subsampled before its blocks are averaged; at least this many pixels a side are read.
SAMPLED = 96
# The signature of a film, which is compared with other films, has a thumbnail a second and at most this many.
MOMENTS = 32


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

    def signature(self, fps: int) -> np.ndarray:
        """Thumbnails of a frame a second, at most MOMENTS from the first on, uint8 [k, GRID, GRID]."""
        return np.round(self.thumbnails[::fps][:MOMENTS]).astype(np.uint8)


@cache
def _averaging(size: int, channels: int) -> np.ndarray:
    """Weights float32 [GRID, size * channels] of the mean over each of GRID blocks; a short side repeats its pixels."""
    pixel = np.arange(size * -(-GRID // size)) // -(-GRID // size)
    edges = np.linspace(0, len(pixel), GRID, endpoint=False).astype(int)
    weights = np.zeros((GRID, size), dtype=np.float64)
    for block, part in enumerate(np.split(pixel, edges[1:])):
        np.add.at(weights[block], part, 1 / len(part))
    return np.repeat(weights / channels, channels, axis=1).astype(np.float32)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Block means of the grey image, float32 [GRID, GRID], of uint8 [H, W, 3]; smaller images repeat pixels."""
    every = max(min(image.shape[:2]) // SAMPLED, 1)
    pixels = image[::every, ::every].astype(np.float32)
    height, width, channels = pixels.shape
    return _averaging(height, 1) @ pixels.reshape(height, width * channels) @ _averaging(width, channels).T


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
        # Where the dataset lies may not change what is written of it.
        error = str(fault).replace(f"{dataset.root}/", "")
    return CameraTrace(
        np.array(steps, dtype=np.int64),
        np.array(thumbnails, dtype=np.float32).reshape(len(steps), GRID, GRID),
        np.array(misfits, dtype=np.int64),
        error,
    )
