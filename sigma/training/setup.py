"""What every training needs first: its windows, its schedule, and the digest that names its state."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import lerobot
import peft
import torch
import transformers
from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from sigma.parameters import Parameters
from sigma.parameters.training import TrainParameters
from sigma.policy.pi05.placement import compile_layers
from sigma.policy.pi05.recompute import recompute_layers
from sigma.shared.errors import SigmaError
from sigma.training.augmentation import Augmentation
from sigma.training.batches import WindowBatches, code_digest
from sigma.training.loop import Schedule


def check_autocast(train: TrainParameters, device: torch.device) -> None:
    """Refuse ``train.autocast`` where the device cannot compute in 16 bits."""
    if train.autocast and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise SigmaError(
            f"params.yaml: train.autocast: found {train.autocast} on {torch.cuda.get_device_name(device)}, which lacks "
            "it; legal: null"
        )


def prepare_layers(policy: PI05Policy, parameters: Parameters) -> None:
    """Compile and checkpoint the policy's layers as ``machine.compile`` and ``train.gradient_checkpointing`` say."""
    if parameters.machine.compile:
        compile_layers(policy)
    if parameters.train.gradient_checkpointing:
        recompute_layers(policy)


def views(train: TrainParameters) -> Augmentation:
    """The altered images that a training draws from."""
    return Augmentation(train.views, train.view_shift, train.view_light, train.seed)


def schedule(train: TrainParameters) -> Schedule:
    """The numbers of the training loop."""
    return Schedule(**train.model_dump(include={field.name for field in fields(Schedule)}))


def sections(parameters: Parameters) -> dict[str, dict[str, Any]]:
    """The sections that a training reads, as plain values."""
    return parameters.model_dump(include={"train", "lora", "telepathy", "loss"})


def inputs_key(batches: WindowBatches, values: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    """Digest of every input of a training of this ``kind``: a checkpoint of anything else is never resumed.

    ``values`` are those of the parameters that it depends on, by section.
    """
    versions = [package.__version__ for package in (torch, peft, transformers, lerobot)]
    device = batches.builder.device.type
    text = json.dumps([batches.digest, values, kind, versions, device, batches.dtype, code_digest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
