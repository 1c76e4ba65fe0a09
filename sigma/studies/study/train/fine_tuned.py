"""A base that was fine-tuned whole, written as the policy folder that it came from with other weights."""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sigma.policy.pi05.base import Base
from sigma.policy.pi05.base_origin import resolve_base
from sigma.policy.pi05.description import ACTION, STATE
from sigma.policy.pi05.inputs import Normalisation
from sigma.policy.pi05.weights import WEIGHTS
from sigma.shared.files import atomic_directory, read_json

_PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")


def save_fine_tuned(folder: Path, base: Base, normalisation: Normalisation) -> None:
    """Write the policy's weights as they are computed with, and everything else as the base has it, or nothing.

    The statistics of the processors are those of ``normalisation``: the policy was trained in them.
    """
    source = resolve_base(base.reference["source"], base.reference["revision"], download=False)
    with atomic_directory(folder) as temporary:
        for item in sorted(source.iterdir()):
            if item.is_dir() and item.name == "tokenizer":
                shutil.copytree(item, temporary / item.name)
            elif item.name == "config.json" or item.name.startswith("policy_"):
                shutil.copyfile(item, temporary / item.name)
        if not (temporary / "tokenizer").is_dir():
            base.prompter.tokenizer.save_pretrained(temporary / "tokenizer")
        for name in _PROCESSORS:
            if (temporary / name).is_file():
                _set_statistics(temporary, name, normalisation)
        weights = {name: tensor.detach().cpu().clone() for name, tensor in sorted(base.policy.state_dict().items())}
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})


def _set_statistics(folder: Path, processor: str, normalisation: Normalisation) -> None:
    """Put the quantiles of state and action, or the mean and deviation that map the same numbers to −1 and 1, into
    every state file of a processor that has them."""
    for step in read_json(folder / processor)["steps"]:
        if "state_file" not in step:
            continue
        file = folder / step["state_file"]
        tensors = load_file(file)
        for feature, quantiles in ((STATE, normalisation.state), (ACTION, normalisation.action)):
            low, high = np.asarray(quantiles.q01, np.float64), np.asarray(quantiles.q99, np.float64)
            for name, values in {"q01": low, "q99": high, "mean": (low + high) / 2, "std": (high - low) / 2}.items():
                if f"{feature}.{name}" in tensors:
                    known = tensors[f"{feature}.{name}"]
                    tensors[f"{feature}.{name}"] = torch.as_tensor(values, dtype=known.dtype)
        save_file(tensors, file)
