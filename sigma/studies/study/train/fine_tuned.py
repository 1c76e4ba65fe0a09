"""A base that was fine-tuned whole, written as the policy folder that it came from with other weights."""

import shutil
from pathlib import Path

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
    """Put q01 and q99 of state and action into every state file of a processor that has them."""
    for step in read_json(folder / processor)["steps"]:
        if "state_file" not in step:
            continue
        file = folder / step["state_file"]
        tensors = load_file(file)
        for feature, quantiles in ((STATE, normalisation.state), (ACTION, normalisation.action)):
            for name, values in ((f"{feature}.q01", quantiles.q01), (f"{feature}.q99", quantiles.q99)):
                if name in tensors:
                    tensors[name] = torch.as_tensor(values, dtype=tensors[name].dtype)
        save_file(tensors, file)
