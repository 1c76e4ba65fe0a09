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
from sigma.studies.benchmark.kept_record import NotMeasured

CONFIG = "policy_preprocessor.json"


def preprocessor(base: Base, normalisation: Normalisation) -> PolicyProcessorPipeline:
    """The checkpoint's own pre-processor, with the statistics that the run computes with."""
    folder = resolve_base(base.reference["source"], base.reference["revision"])
    if not (folder / CONFIG).is_file():
        raise NotMeasured("the base was published without a pre-processor")
    overrides: dict[str, Any] = {"device_processor": {"device": next(base.policy.parameters()).device.type}}
    used = {STATE: normalisation.state, ACTION: normalisation.action}
    if base.statistics is None or any(
        not np.array_equal(getattr(base.statistics[name], key), getattr(one, key))
        for name, one in used.items()
        for key in ("q01", "q99")
    ):
        overrides["normalizer_processor"] = {
            "stats": {name: {"q01": one.q01, "q99": one.q99} for name, one in used.items()}
        }
    return PolicyProcessorPipeline.from_pretrained(folder, config_filename=CONFIG, overrides=overrides)


def raw_batch(base: Base, shards: Shards, windows: np.ndarray) -> dict[str, Any]:
    """What a LeRobot dataset would give of these decisions: images float [B, 3, S, S] in [0, 1], states, instructions.

    The images come from the shards, the fastest way there is: how fast LeRobot's own loader is, is another figure.
    """
    now = shards.window_frames[windows, -1]
    images = shards.images(now).float() / 255
    batch: dict[str, Any] = {camera: images[:, view] for view, camera in enumerate(base.cameras)}
    batch[STATE] = torch.from_numpy(shards.frame_state[now])
    batch["task"] = [shards.tasks[task] for task in shards.window_task[windows]]
    return batch


def policy_batch(
    process: PolicyProcessorPipeline, base: Base, shards: Shards, windows: np.ndarray, *, actions: bool = False
) -> dict[str, Any]:
    """The decisions of ``windows`` as LeRobot's policy takes them; ``actions`` adds the recorded ones, for training."""
    batch = raw_batch(base, shards, windows)
    if actions:
        batch[ACTION] = torch.from_numpy(shards.window_action[windows])
    return process(batch)
