"""Which parts of a policy are on the device, and which are compiled for training."""

import os
import shutil

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import nn

from sigma.shared.errors import SigmaError

# The parts of a layer that read no key-value cache.
_COMPILED = ("input_layernorm", "post_attention_layernorm", "mlp")


def large_layers(policy: PI05Policy) -> list[nn.Module]:
    """The layers that hold most of the weights and that every pass over a prefix runs in turn.

    These are the layers of the vision tower, and of the language model without its last one: in flow matching the
    action expert reads only the keys and values of the last layer, so that no gradient reaches that layer's output. The
    action expert's layers are not among them, because not every pass goes on to actions.
    """
    paligemma = policy.model.paligemma_with_expert.paligemma.model
    return [*paligemma.vision_tower.vision_model.encoder.layers, *paligemma.language_model.layers[:-1]]


def place(policy: PI05Policy, device: str | torch.device) -> PI05Policy:
    """Move a policy to a device, except for the heads that predict words, which no pass here reads.

    These stay where they are rather than being dropped, so that every tensor of the base can be compared with its
    digest.
    """
    tower = policy.model.paligemma_with_expert
    heads = [(owner, owner.lm_head) for owner in (tower.paligemma, tower.gemma_expert)]
    for owner, _ in heads:
        owner.lm_head = torch.nn.Identity()  # keeps the place among its owner's parts
    try:
        policy.to(device)
    finally:
        for owner, head in heads:
            owner.lm_head = head
    return policy


def compile_layers(policy: PI05Policy) -> None:
    """Have ``torch.compile`` compile feed-forward blocks and norms of language model and expert at their first call.

    Each is compiled once for all layers. Attention is left as it is: it writes into a cache that differs from layer to
    layer, and each layer would be compiled anew. Names of weights stay. Raises :class:`SigmaError` where there is no
    C++ compiler, which torch's own compiler works with.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise SigmaError(
            f"params.yaml: machine.compile: found true without a C++ compiler ({compiler} is not on the path); "
            "legal: false, or install g++"
        )
    towers = policy.model.paligemma_with_expert
    for model in (towers.paligemma.model.language_model, towers.gemma_expert.model):
        for layer in model.layers:
            for part in _COMPILED:
                getattr(layer, part).compile()
