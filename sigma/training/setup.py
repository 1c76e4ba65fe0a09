"""What every training needs first: its windows, its schedule, and the digest that names its state."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
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


def illegal(key: str, value: object, reason: str, legal: str) -> SigmaError:
    """The error that refuses ``value`` at ``key`` of params.yaml because of other parameters or the machine."""
    return SigmaError(f"params.yaml: {key}: found {value} {reason}; legal: {legal}")


def split_windows(batches: WindowBatches) -> dict[str, np.ndarray]:
    """Row numbers of the train and of the validation windows; raises :class:`SigmaError` where a part has none."""
    parts = {name: np.flatnonzero(batches.split == name) for name in ("train", "validation")}
    for name, rows in parts.items():
        if not len(rows):
            raise SigmaError(f"data/shards: no {name} window is left; see window in params.yaml")
    return parts


def check_autocast(train: TrainParameters, batches: WindowBatches) -> None:
    """Refuse ``train.autocast`` where the base's weights have 16 bits already, or the device cannot compute in them."""
    device = batches.builder.device
    if train.autocast is None:
        return
    if batches.dtype != "float32":
        reason = f"with base.dtype {batches.dtype}, which computes so already"
        raise illegal("train.autocast", train.autocast, reason, "null, or base.dtype float32")
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        reason = f"on {torch.cuda.get_device_name(device)}, which lacks it"
        raise illegal("train.autocast", train.autocast, reason, "null")


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
    versions = [torch.__version__, peft.__version__, transformers.__version__]
    device = batches.builder.device.type
    text = json.dumps([batches.digest, values, kind, versions, device, batches.dtype, code_digest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
