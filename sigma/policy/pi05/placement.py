"""Which parts of a policy are on the device."""

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import nn


def large_layers(policy: PI05Policy) -> list[nn.Module]:
    """The layers with most of the weights, which every pass over a prefix runs one after the other.

    They are those of the vision tower and of the language model but its last. In flow matching the action expert reads
    the last one's keys and values alone, so that no gradient reaches what it returned. The action expert is none of
    them: not every pass goes on to actions.
    """
    paligemma = policy.model.paligemma_with_expert.paligemma.model
    return [*paligemma.vision_tower.vision_model.encoder.layers, *paligemma.language_model.layers[:-1]]


def place(policy: PI05Policy, device: str | torch.device, *, expert: bool = True) -> PI05Policy:
    """Move a policy to a device, but for what no pass of ours reads: the heads that would predict words.

    They stay where they are, so that every tensor of the base is there to be compared. Without ``expert`` the action
    expert stays too; such a policy reads a prefix and integrates no action.
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
