"""Activation checkpointing of π0.5's decoder layers: a training step keeps what enters a layer and computes the rest
again in the backward pass.

LeRobot and transformers switch the key-value cache off under gradient checkpointing, but the cache is all that the
action expert reads of the prefix. Here a layer's keys and values leave the checkpointed function as outputs of it.

Legend: B batch, N tokens of this pass, M tokens before them, h heads of keys and values, e head dim, w width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache


class _LayerCache:
    """One layer's cache in one run: ``before``, (B, h, M, e) each, joined with the layer's own keys and values.

    It never writes to what was there, so that a layer that runs again reads what it read the first time.
    """

    own: tuple[Tensor, Tensor]

    def __init__(self, before: tuple[Tensor, Tensor] | None):
        self.before = before

    def update(self, keys: Tensor, values: Tensor, _layer: int) -> tuple[Tensor, Tensor]:
        self.own = keys, values
        if self.before is None:
            return self.own
        keys_before, values_before = self.before
        return torch.cat([keys_before, keys], dim=-2), torch.cat([values_before, values], dim=-2)


def recompute_layers(policy: PI05Policy) -> None:
    """Checkpoint every decoder layer of language model and action expert, in training mode with gradients alone.

    Values and gradients stay as they were to the bit, names of weights too. Layers may carry LoRA, and FSDP's hooks,
    which gather the weights before a layer's backward pass and so before it runs again.
    """
    towers = policy.model.paligemma_with_expert
    for model in (towers.paligemma.model.language_model, towers.gemma_expert.model):
        for index, layer in enumerate(model.layers):
            layer.forward = partial(_checkpointed, layer, layer.forward, index)


def _checkpointed(
    layer: torch.nn.Module,
    forward: Callable[..., Tensor],
    index: int,
    hidden: Tensor,
    *,
    past_key_values: DynamicCache,
    use_cache: bool,
    **options: Any,
) -> Tensor:
    """The layer's output (B, N, w) for its input ``hidden`` (B, N, w); the cache gets the layer's keys and values where
    ``use_cache`` asks for it."""
    if not (layer.training and torch.is_grad_enabled()):
        return forward(hidden, past_key_values=past_key_values, use_cache=use_cache, **options)
    stored: Any = past_key_values.layers[index] if index < len(past_key_values.layers) else None
    before = None if stored is None else (stored.keys, stored.values)

    def run(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cache = _LayerCache(before)
        output = forward(hidden, past_key_values=cache, use_cache=use_cache, **options)
        return output, *cache.own

    output, keys, values = checkpoint(run, hidden, use_reentrant=False)
    if use_cache:
        past_key_values.update(keys, values, index)
    return output
