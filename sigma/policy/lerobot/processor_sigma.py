"""LeRobot processors of Sigma: names, batch and device. Statistics and prompt belong to the model itself."""

from typing import Any

import numpy as np
import torch
from lerobot.processor import (
    PolicyProcessorPipeline,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)

from sigma.policy.lerobot.configuration_sigma import SigmaConfig
from sigma.shared.errors import SigmaError


def make_sigma_pre_post_processors(
    config: SigmaConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[PolicyProcessorPipeline[Any, Any], PolicyProcessorPipeline[Any, Any]]:
    """Pre- and post-processor; LeRobot's factory finds this function by its name.

    The adapter compares a correction with the raw state, the prompt holds the state in bins, and both were calibrated
    with the statistics of training; so nothing is normalised here, and ``dataset_stats`` are not used.
    """
    steps = make_default_policy_processor_steps(config)
    return make_policy_processor_pipelines(
        input_steps=[steps.rename_observations, steps.add_batch_dim, steps.to_device], output_steps=[steps.to_cpu]
    )


def pixels(camera: str, images: torch.Tensor) -> np.ndarray:
    """uint8 [B, H, W, 3] of images [B, 3, H, W]: what the camera gave before LeRobot divided it by 255."""
    if images.dtype != torch.uint8:
        if not bool((images >= 0).all() and (images <= 1).all()):
            raise SigmaError(f"{camera}: legal values lie in [0, 1]")
        images = (images.float() * 255).round().to(torch.uint8)
    return images.permute(0, 2, 3, 1).cpu().numpy()
