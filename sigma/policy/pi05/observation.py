"""The inputs of a decision, and the base's pass over them with its pooled features.

Legend: B batch, V cameras, n tokens an image, L prompt tokens, N prefix tokens, P pooled vectors of a pass (V cameras,
instruction, state), d backbone width, D state dim, S control steps of the trace, E episodes, R reads of memory.
"""

from dataclasses import dataclass, replace
from math import isqrt

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from sigma.policy.pi05 import prefix
from sigma.policy.pi05.prompt import INSTRUCTION, STATE


@dataclass(frozen=True)
class Past:
    """What memory reads of E episodes, and how much of it lies before each of B decisions.

    Decisions of one episode share its row, so that one unroll serves them all. Rows are padded at the end.
    """

    views: Tensor  # (E, R, 2V, d) pooled image tokens, oldest first
    states: Tensor  # (E, R, D) normalised
    text: Tensor  # (E, R, d) mean frozen embedding of the instruction's tokens
    episode: Tensor  # (B,) int64 row of each decision
    reads: Tensor  # (B,) int64 how many reads of its row lie before each decision

    def to(self, device: torch.device) -> "Past":
        return Past(*(value.to(device, non_blocking=True) for value in vars(self).values()))


@dataclass(frozen=True)
class Observation:
    """What B decisions may see of the present, and the motion that led to it. Nothing later is in it."""

    vision: Tensor  # (B, V, n, d) image tokens of the frozen tower
    tokens: Tensor  # (B, L) int64 prompt
    mask: Tensor  # (B, L) bool
    groups: Tensor  # (B, L) int8 role of each prompt token
    state: Tensor  # (B, D) normalised
    text: Tensor  # (B, d) mean frozen embedding of the instruction's tokens
    motion: Tensor  # (B, S, D) normalised states of the S control steps before, oldest first, minus the present state
    pooled: Tensor | None = None  # (B, P, d) pooled features of the frozen base's pass, where it was made
    # (B, E, d) image tokens of earlier frames, after the prompt so that no other token moves; π0.5 reads none
    earlier: Tensor | None = None

    def with_frozen_features(self, pooled: Tensor) -> "Observation":
        """A copy that holds the pooled frozen features (B, P, d) of this decision."""
        return replace(self, pooled=pooled)


@dataclass(frozen=True)
class BasePass:
    """The base's prefix after its language model, and its pooled features (B, P, d)."""

    encoded: prefix.Encoded
    pooled: Tensor


def pool_views(vision: Tensor) -> Tensor:
    """Pool image tokens (..., V, n, d) to (..., 2V, d): each camera's mean over its tokens, then each camera's maximum.

    Something small that appears fills one token of many, which a mean hides and a maximum shows.
    """
    vision = vision.float()
    return torch.cat([vision.mean(-2), vision.amax(-2)], dim=-2)


def place_views(vision: Tensor) -> Tensor:
    """Pool image tokens (..., V, n, d) to (..., V, 3d): the mean, and the mean weighted by how far right of the middle
    and how far below it a token lies. The same things elsewhere in the picture give other numbers."""
    vision = vision.float()
    side = isqrt(vision.shape[-2])
    grid = vision.unflatten(-2, (side, side))
    place = torch.linspace(-1, 1, side, device=vision.device)[:, None]
    rows, columns = grid.mean(-2), grid.mean(-3)
    return torch.cat([vision.mean(-2), (columns * place).mean(-2), (rows * place).mean(-2)], dim=-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens (B, N, d) where the mask (B, N) holds; zero where it never does."""
    weight = mask.to(values.dtype)[..., None]
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)


def pool(last: Tensor, views: int, image_tokens: int, groups: Tensor) -> Tensor:
    """Pool a prefix (B, N, d) to (B, P, d): one mean a camera, one over the instruction, one over the state."""
    values, start = last.float(), views * image_tokens
    cameras = values[:, :start].unflatten(1, (views, image_tokens)).mean(2)
    text = values[:, start : start + groups.shape[1]]
    pooled = [masked_mean(text, groups == INSTRUCTION), masked_mean(text, groups == STATE)]
    return torch.cat([cameras, torch.stack(pooled, dim=1)], dim=1)


def base_pass(policy: PI05Policy, observation: Observation) -> BasePass:
    """One pass over the policy's own prefix of image tokens and prompt, without Sigma's tokens and FiLM."""
    vision, earlier = observation.vision, observation.earlier
    text = prefix.text_embeddings(policy, observation.tokens)
    embedded = prefix.assemble(vision, text, observation.mask, earlier)
    encoded = prefix.encode(policy, embedded, 0 if earlier is None else earlier.shape[1])
    return BasePass(encoded, pool(encoded.last, vision.shape[1], vision.shape[2], observation.groups))
