"""Tiny real bases for tests: a small π0.5 with random weights, saved as a LeRobot policy folder."""

from pathlib import Path

import numpy as np
import torch

from sigma.policy.pi05.base import Base, load_base
from sigma.policy.pi05.description import describe_base
from sigma.policy.pi05.small.base_folder import save_base, small_config
from sigma.policy.pi05.small.tokenizer import build_tokenizer
from sigma.shared.quantiles import Quantiles

CAMERAS = ("observation.images.up", "observation.images.wrist")
STATE_DIM = ACTION_DIM = 6
SIZES = dict(
    image_resolution=(32, 32),
    patch_size=16,
    vision_width=16,
    vision_layers=1,
    vision_heads=2,
    vision_mlp=16,
    language_width=24,
    language_mlp=32,
    expert_width=16,
    expert_mlp=16,
    depth=2,
    head_dim=4,
    chunk_size=16,
    tokenizer_max_length=32,
)
STATISTICS = {
    "observation.state": Quantiles(np.linspace(-90, -40, STATE_DIM), np.linspace(50, 95, STATE_DIM)),
    "action": Quantiles(np.linspace(-95, -45, ACTION_DIM), np.linspace(55, 99, ACTION_DIM)),
}


def tiny_policy(seed: int = 0, cameras: tuple[str, ...] = CAMERAS, padded: int | None = None, **sizes):
    """A small π0.5 with random weights large enough that every part matters to the action.

    With ``padded`` it declares vectors of that size for state and action, as π0.5 is published.
    """
    from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dims = (padded or STATE_DIM, padded or ACTION_DIM)
        config = small_config(cameras, *dims, **{"vocabulary_size": len(tokenizer), **SIZES, **sizes})
        policy = PI05SmallPolicy(config)
        for parameter in policy.parameters():
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.1)
    return policy.eval()


def write_tiny_base(folder: Path, seed: int = 0, *, statistics=STATISTICS, **sizes) -> Path:
    """Write a tiny base into ``folder`` and return it."""
    save_base(folder, tiny_policy(seed, **sizes), build_tokenizer(), statistics)
    return folder


def load_tiny_base(folder: Path, seed: int = 0, **sizes) -> Base:
    """Write a tiny base into ``folder`` and load it through :func:`load_base`."""
    return load_base(describe_base(str(write_tiny_base(folder, seed, **sizes)), None))
