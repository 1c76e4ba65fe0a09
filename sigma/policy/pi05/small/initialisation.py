"""Initial weights of the small π0.5, a function of a seed and of each tensor's name."""

import math

import numpy as np
import torch
from lerobot.policies.pi_gemma import PiGemmaRMSNorm

from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.shared.seeding import generator


@torch.no_grad()
def fan_in_initialise(policy: PI05SmallPolicy, seed: int) -> None:
    """Weights of variance 1 / fan-in, drawn by tensor name (own design; transformers' 0.02 suits wide towers only).

    Projections back into a residual stream are shrunk by √(2·depth). The adaRMS gates start open at 1: a policy this
    shallow needs no closed start, and its attention learns from the first step.
    """
    depth = policy.config.depth
    for name, tensor in policy.named_parameters():
        noise = torch.from_numpy(generator(seed, "weights", name).standard_normal(tensor.shape, dtype=np.float32))
        if "layernorm" in name or "layer_norm" in name or ".norm." in name:
            continue  # scales and shifts: the identity, set below for adaRMS
        if tensor.ndim == 1:
            tensor.zero_()
        elif "position_embedding" in name:
            tensor.copy_(0.3 * noise)
        elif "embed_tokens" in name:
            tensor.copy_(noise / math.sqrt(tensor.shape[1]))  # the model multiplies by √width
        else:
            residual = (
                any(part in name for part in ("o_proj", "down_proj", "out_proj", "fc2")) and "action_" not in name
            )
            scale = 1 / math.sqrt(2 * depth) if residual else 1.0
            tensor.copy_(noise * scale / math.sqrt(tensor[0].numel()))
    for module in policy.modules():
        if isinstance(module, PiGemmaRMSNorm) and module.dense is not None:
            # adaRMS reads scale, shift and gate from one linear layer of the time embedding; the gate comes last.
            module.dense.weight.zero_()
            module.dense.bias.zero_()
            module.dense.bias[-module.dim :] = 1.0
