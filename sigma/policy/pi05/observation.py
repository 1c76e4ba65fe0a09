"""The inputs of a decision, and the base's pass over them with its pooled features.

Legend: B batch, M history (this decision included), V cameras, n tokens an image, L prompt tokens, N prefix tokens,
P pooled vectors (V cameras, instruction, state), d backbone width, D state dim, S control steps of the trace.
"""

from dataclasses import dataclass, replace

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from sigma.policy.pi05 import prefix
from sigma.policy.pi05.prompt import INSTRUCTION, STATE


@dataclass(frozen=True)
class Observation:
    """What B decisions may read: the present, the motion that led to it, and pooled features of the past.

    Nothing later than the decision is in it. ``now`` is None until the frozen base's pass over the present is made.
    """

    vision: Tensor  # (B, V, n, d) image tokens of the frozen tower
    tokens: Tensor  # (B, L) int64 prompt
    mask: Tensor  # (B, L) bool
    groups: Tensor  # (B, L) int8 role of each prompt token
    state: Tensor  # (B, D) normalised
    text: Tensor  # (B, d) mean frozen embedding of the instruction's tokens
    history: Tensor  # (B, M-1, P, d) pooled frozen features of the earlier decisions, oldest first
    present: Tensor  # (B, M-1) bool, False before the episode began
    motion: Tensor  # (B, S, D) normalised states of the S control steps before, oldest first, minus the present state
    now: Tensor | None = None  # (B, P, d) pooled frozen features of this decision

    def with_frozen_features(self, pooled: Tensor) -> "Observation":
        """A copy that holds the pooled frozen features (B, P, d) of this decision."""
        return replace(self, now=pooled)


@dataclass(frozen=True)
class BasePass:
    """The base's prefix after its language model, and its pooled features (B, P, d)."""

    encoded: prefix.Encoded
    pooled: Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens (B, N, d) where the mask (B, N) holds; zero where it never does."""
    weight = mask.to(values.dtype)[..., None]
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)


def pool(last: Tensor, views: int, image_tokens: int, groups: Tensor) -> Tensor:
    """Pool a prefix (B, N, d) to (B, P, d): one mean a camera, one over the instruction, one over the state.

    Tokens appended after the prompt, those of state and factors, count as the state's.
    """
    values, prompt = last.float(), groups.shape[1]
    start = views * image_tokens
    cameras = values[:, :start].unflatten(1, (views, image_tokens)).mean(2)
    appended = groups.new_full((len(groups), last.shape[1] - start - prompt), STATE)
    roles = torch.cat([groups, appended], dim=1)
    text = values[:, start:]
    pooled = [masked_mean(text, roles == INSTRUCTION), masked_mean(text, roles == STATE)]
    return torch.cat([cameras, torch.stack(pooled, dim=1)], dim=1)


def base_pass(policy: PI05Policy, observation: Observation, *, hidden_states: bool = False) -> BasePass:
    """One pass over the policy's own prefix of image tokens and prompt, without Sigma's tokens and FiLM."""
    vision = observation.vision
    embedded = prefix.assemble(vision, prefix.text_embeddings(policy, observation.tokens), observation.mask)
    encoded = prefix.encode(policy, embedded, hidden_states=hidden_states)
    return BasePass(encoded, pool(encoded.last, vision.shape[1], vision.shape[2], observation.groups))
