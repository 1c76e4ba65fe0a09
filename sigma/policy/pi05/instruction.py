"""What the frozen language model makes of an instruction by itself."""

from collections.abc import Sequence

import numpy as np
import torch

from sigma.policy.pi05.inputs import InputBuilder
from sigma.policy.pi05.observation import base_pass


@torch.no_grad()
def embed_instructions(builder: InputBuilder, texts: Sequence[str]) -> np.ndarray:
    """Mean output of the language model over each instruction's tokens, float64 [n, d], beside grey pictures and joints
    in the middle of their ranges: what is seen has no part in it. LoRA, where attached, must be switched off."""
    base = builder.base
    grey = torch.full((1, len(base.cameras), 3, base.resolution, base.resolution), 128, dtype=torch.uint8)
    vision = builder.encode_images(grey)
    rows = []
    for text in texts:  # one at a time: the same number whatever else is asked for
        middle = np.zeros((1, base.state_dim), dtype=np.float32)
        observation = builder.normalised_observation(vision, middle, [text])
        rows.append(base_pass(base.policy, observation).pooled[0, -2].double().cpu().numpy())
    return np.array(rows)
