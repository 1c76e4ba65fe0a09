"""The one resize of camera images: the shards and the live processor both call it, so they agree bit for bit."""

import torch
from torch.nn import functional


def to_resolution(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize uint8 images [..., 3, H, W] to uint8 [..., 3, size, size]: same aspect ratio, centred on black.

    This is ``resize_with_pad_torch`` of LeRobot's π0.5 (bilinear, no antialiasing), rounded to uint8. It is written
    again here because importing it would load all of LeRobot's policies in every worker; a test compares the two.
    Images that already have the size are returned unchanged. Raises :class:`ValueError` for another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"expected uint8 images [..., 3, H, W], found {images.dtype} {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    ratio = max(width / size, height / size)
    content = (int(height / ratio), int(width / ratio))
    flat = images.reshape(-1, 3, height, width).contiguous().float() / 255
    resized = functional.interpolate(flat, size=content, mode="bilinear", align_corners=False).clamp(0, 1)
    top, left = (size - content[0]) // 2, (size - content[1]) // 2
    padded = torch.zeros(len(flat), 3, size, size, dtype=torch.uint8, device=images.device)
    padded[:, :, top : top + content[0], left : left + content[1]] = (resized * 255).round().to(torch.uint8)
    return padded.reshape(*images.shape[:-2], size, size)
