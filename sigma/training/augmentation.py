"""Altered views of training images: small shifts and changes of light, so that heads cannot learn pixels by heart.

Random shifts with repeated edges follow DrQ (Kostrikov et al., 2021); sizes and light are our own design. A view is
a function of (seed, frame, number), so that neither batches, order nor a resumed run can change it.

Legend: B batch, V cameras, S side of an image in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sigma.shared.seeding import generator


@dataclass(frozen=True)
class Augmentation:
    """The altered views that a training draws from; with ``count`` 0 there are none.

    Attributes:
        count: views of each image beside the image itself.
        shift: the most pixels that a camera's image is moved, each way; edges are repeated.
        light: the most that contrast (about mid-grey) and brightness change, as a share of the range.
        seed: another seed gives other views.
    """

    count: int = 0
    shift: int = 0
    light: float = 0.0
    seed: int = 0

    def draw_numbers(self, step: int, part: slice, total: int) -> np.ndarray:
        """Numbers of the views that the rows ``part`` of an optimizer step of ``total`` rows read; 0 is the image."""
        return generator(self.seed, "views", step).integers(0, self.count + 1, size=total)[part]

    def apply(self, images: Tensor, frames: Sequence[int] | np.ndarray, numbers: Sequence[int] | np.ndarray) -> Tensor:
        """View ``numbers[i]`` of the images of ``frames[i]``, uint8 (B, V, 3, S, S) like ``images``."""
        rows = [
            self._view(image, int(frame), int(number)) if number else image
            for image, frame, number in zip(images, frames, numbers, strict=True)
        ]
        return torch.stack(rows)

    def _view(self, image: Tensor, frame: int, number: int) -> Tensor:
        """One view of one frame's images, uint8 (V, 3, S, S); each camera is altered on its own."""
        draw, shift = generator(self.seed, "view", frame, number), self.shift
        cameras, _, height, width = image.shape
        moves = draw.integers(-shift, shift + 1, size=(cameras, 2))
        light = draw.uniform(-self.light, self.light, size=(2, cameras, 1, 1, 1)).astype(np.float32)
        contrast, brightness = torch.from_numpy(light)
        padded = functional.pad(image.float(), (shift,) * 4, mode="replicate")
        pictures = zip(padded, (moves + shift).tolist(), strict=True)
        moved = torch.stack([picture[:, top : top + height, left : left + width] for picture, (top, left) in pictures])
        lit = (moved - 127.5) * (1 + contrast) + 127.5 + 255 * brightness
        return lit.round().clamp(0, 255).to(torch.uint8)
