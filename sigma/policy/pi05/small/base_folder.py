"""Writes a small π0.5 as a base: a LeRobot policy folder that :func:`sigma.policy.pi05.base.load_base` reads."""

from pathlib import Path

import torch
from lerobot.configs import FeatureType, PolicyFeature
from transformers import PreTrainedTokenizerFast

from sigma.policy.pi05.small.configuration_pi05_small import PI05SmallConfig
from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.policy.pi05.small.processor_pi05_small import make_pi05_small_pre_post_processors
from sigma.shared.files import atomic_directory
from sigma.shared.quantiles import Quantiles


def small_config(cameras: tuple[str, ...], state_dim: int, action_dim: int, **sizes) -> PI05SmallConfig:
    """Configuration of a small π0.5 with these image features and dimensions; ``sizes`` are further fields."""
    config = PI05SmallConfig(device="cpu", max_state_dim=state_dim, max_action_dim=action_dim, **sizes)
    config.input_features = {
        **{camera: PolicyFeature(FeatureType.VISUAL, (3, *config.image_resolution)) for camera in cameras},
        "observation.state": PolicyFeature(FeatureType.STATE, (state_dim,)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (action_dim,))}
    config.push_to_hub = False
    return config


def save_base(
    folder: Path,
    policy: PI05SmallPolicy,
    tokenizer: PreTrainedTokenizerFast,
    statistics: dict[str, Quantiles],
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write weights in ``dtype``, configuration, tokenizer, and LeRobot's processors, or nothing.

    ``statistics`` are the quantiles of ``observation.state`` and ``action``.
    """
    stats = {
        feature: {"q01": torch.from_numpy(quantiles.q01), "q99": torch.from_numpy(quantiles.q99)}
        for feature, quantiles in statistics.items()
    }
    weights = {name: tensor.detach().to("cpu", dtype) for name, tensor in policy.state_dict().items()}
    with atomic_directory(folder) as temporary:
        policy.save_pretrained(temporary, state_dict=weights)
        tokenizer.save_pretrained(temporary / "tokenizer")
        for processor in make_pi05_small_pre_post_processors(policy.config, stats, tokenizer):
            processor.save_pretrained(temporary)
