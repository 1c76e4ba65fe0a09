"""Which parts of a policy are on the device."""

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import nn


def large_layers(policy: PI05Policy) -> list[nn.Module]:
    """The layers that hold most of the weights and that every pass over a prefix runs in turn.

    These are the layers of the vision tower, and of the language model without its last one: in flow matching the
    action expert reads only the keys and values of the last layer, so that no gradient reaches that layer's output. The
    action expert's layers are not among them, because not every pass goes on to actions.
    """
    paligemma = policy.model.paligemma_with_expert.paligemma.model
    return [*paligemma.vision_tower.vision_model.encoder.layers, *paligemma.language_model.layers[:-1]]


def place(policy: PI05Policy, device: str | torch.device, *, expert: bool = True) -> PI05Policy:
    """Move a policy to a device, except for the heads that predict words, which no pass here reads.

    These stay where they are rather than being dropped, so that every tensor of the base can be compared with its
    digest. Without ``expert`` the action expert stays too; such a policy encodes a prefix and integrates no action.
    """
    tower, core = policy.model.paligemma_with_expert, policy.model
    staying = [(tower.paligemma, "lm_head"), (tower.gemma_expert, "lm_head")]
    if not expert:
        staying = [(tower.paligemma, "lm_head"), (tower, "gemma_expert")]
        staying += [(core, name) for name in ("action_in_proj", "action_out_proj", "time_mlp_in", "time_mlp_out")]
    parts = [(owner, name, getattr(owner, name)) for owner, name in staying]
    for owner, name, _ in parts:
        setattr(owner, name, torch.nn.Identity())  # keeps the place among its owner's parts
    try:
        policy.to(device)
    finally:
        for owner, name, part in parts:
            setattr(owner, name, part)
    return policy
