"""LeRobot's own pre-processor and inputs for the project's base.

Legend: B windows, V cameras.
"""

from typing import Any

import numpy as np
import torch
from lerobot.processor import PolicyProcessorPipeline

from sigma.data.shards import Shards
from sigma.policy.pi05.base import Base
from sigma.policy.pi05.base_origin import resolve_base
from sigma.policy.pi05.description import ACTION, STATE
from sigma.policy.pi05.inputs import Normalisation
from sigma.studies.benchmark.measure import NotMeasured

CONFIG = "policy_preprocessor.json"


def preprocessor(base: Base, normalisation: Normalisation) -> PolicyProcessorPipeline:
    """The checkpoint's own pre-processor, with the statistics that the run computes with."""
    folder = resolve_base(base.reference["source"], base.reference["revision"])
    if not (folder / CONFIG).is_file():
        raise NotMeasured("the base was published without a pre-processor")
    quantiles = {STATE: normalisation.state, ACTION: normalisation.action}
    overrides = {
        "device_processor": {"device": next(base.policy.parameters()).device.type},
        "normalizer_processor": {"stats": {name: {"q01": q.q01, "q99": q.q99} for name, q in quantiles.items()}},
    }
    return PolicyProcessorPipeline.from_pretrained(folder, config_filename=CONFIG, overrides=overrides)


def policy_batch(
    process: PolicyProcessorPipeline, base: Base, shards: Shards, windows: np.ndarray, *, actions: bool = False
) -> dict[str, Any]:
    """The decisions of ``windows`` as LeRobot's policy takes them; ``actions`` adds the recorded ones, for training.

    What a LeRobot dataset would give (images float [B, 3, S, S] in [0, 1], states, instructions) comes from the shards,
    so that LeRobot's policy is not charged for LeRobot's loader, which has a figure of its own.
    """
    now = shards.window_frame[windows]
    images = shards.images(now).float() / 255
    batch: dict[str, Any] = {camera: images[:, view] for view, camera in enumerate(base.cameras)}
    batch[STATE] = torch.from_numpy(shards.frame_state[now])
    batch["task"] = [shards.tasks[task] for task in shards.window_task[windows]]
    if actions:
        batch[ACTION] = torch.from_numpy(shards.window_action[windows])
    return process(batch)
