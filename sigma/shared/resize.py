"""The one resize of camera images: shards and the live processor both call it, so that they agree to the bit."""

import torch
from torch.nn import functional


def to_resolution(images: torch.Tensor, size: int) -> torch.Tensor:
    """Fit uint8 images [..., 3, H, W] into uint8 [..., 3, size, size], aspect kept, black borders, content centred.

    The semantics are those of ``resize_with_pad_torch`` of LeRobot's π0.5 (bilinear, no antialiasing), which importing
    would cost every worker the import of all of LeRobot's policies; a test holds the two together. The result is
    rounded to uint8. Images that have the size already are returned as they are.
    """
    if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"expected uint8 images [..., 3, H, W], found {images.dtype} {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    ratio = max(width / size, height / size)
    inner = (int(height / ratio), int(width / ratio))
    flat = images.reshape(-1, 3, height, width).contiguous().float() / 255
    resized = functional.interpolate(flat, size=inner, mode="bilinear", align_corners=False).clamp(0, 1)
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    whole = torch.zeros(len(flat), 3, size, size, dtype=torch.uint8, device=images.device)
    whole[:, :, top : top + inner[0], left : left + inner[1]] = (resized * 255).round().to(torch.uint8)
    return whole.reshape(*images.shape[:-2], size, size)
