"""Files of trained tensors: read without unpickling anything, and checked name by name before they are loaded."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_torch


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file or of one that ``torch.save`` wrote; nothing is unpickled.

    Raises :class:`SigmaError` where the file is missing, is not a plain mapping of names to tensors, or would have run
    code.
    """
    path = Path(path)
    if not path.is_file():
        raise SigmaError(f"{path}: not found; run `dvc repro` or give the file that finetune wrote")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
        else:
            tensors = read_torch(path)
    except Exception as error:  # a file from elsewhere may be broken in any way
        reason = " ".join(str(error).split())[:120]
        raise SigmaError(f"{path}: not a plain file of tensors ({type(error).__name__}: {reason})") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise SigmaError(f"{path}: expected a mapping of names to tensors")
    return tensors


def check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> None:
    """Raise :class:`SigmaError` naming the first tensor that is missing, extra, misshapen, of another type or not
    finite. ``origin`` completes "the file was made for …" in the message.
    """
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise SigmaError(f"{path}: tensor {name} is missing; the file was made for {origin}")
        if name not in expected:
            raise SigmaError(f"{path}: tensor {name} is unknown; the file was made for {origin}")
        tensor, wanted = tensors[name], expected[name]
        if tensor.shape != wanted.shape:
            raise SigmaError(f"{path}: tensor {name} has shape {tuple(tensor.shape)}, expected {tuple(wanted.shape)}")
        if tensor.is_floating_point() != wanted.is_floating_point():
            raise SigmaError(f"{path}: tensor {name} holds {tensor.dtype}, expected {wanted.dtype}")
        if not torch.isfinite(tensor).all():
            raise SigmaError(f"{path}: tensor {name} holds a non-finite number")
