"""π0.5 in parts: image and text embeddings, one pass over the prefix, and the action expert over its cache.

Every function runs LeRobot's own modules in LeRobot's own order, so that for one noise draw the actions equal
``PI05Policy.predict_action_chunk`` to the bit. Two things are added: a caller may change or append prefix tokens, and
several noise draws may share one prefix.

Legend: B batch, V cameras, P tokens an image, L prompt tokens, N prefix tokens, Ns appended tokens, d language-model
width, K noise draws, Tc action chunk, A action dim, Ap the policy's padded action dim (``config.max_action_dim``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import make_att_2d_masks, pad_vector, prepare_attention_masks_4d
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor, nn
from transformers import DynamicCache


@dataclass(frozen=True)
class Prefix:
    """What the language model reads: embeddings ``[B, N, d]`` and the mask of real tokens ``[B, N]``."""

    embeddings: Tensor
    pad_mask: Tensor


@dataclass(frozen=True)
class Encoded:
    """A prefix after the language model; cache and layers are None unless asked for.

    In a pass that began later (:func:`encode_late`) the layers before it are None.
    """

    cache: DynamicCache | None  # keys and values of every layer, which the action expert attends to
    pad_mask: Tensor  # [B, N] bool, true at real tokens
    last: Tensor  # [B, N, d] after the final norm
    layers: tuple[Tensor | None, ...] | None  # [B, N, d] after each decoder layer, the last one after the final norm

    def layer(self, index: int) -> Tensor:
        """``[B, N, d]`` after decoder layer ``index``; raises :class:`ValueError` where the pass did not keep it."""
        hidden = None if self.layers is None else self.layers[index]
        if hidden is None:
            raise ValueError(f"this pass kept no hidden states of layer {index}: pass hidden_states=True")
        return hidden

    def keys_values(self) -> DynamicCache:
        """The cache; raises :class:`ValueError` where the pass made none."""
        if self.cache is None:
            raise ValueError("this pass made no key-value cache: pass cache=True")
        return self.cache


def vision_tokens(policy: PI05Policy, images: Tensor) -> Tensor:
    """Image tokens ``[B, V, P, d]`` of images ``[B, V, 3, S, S]``, float in [0, 1].

    Raises :class:`ValueError` for images at another resolution than the policy's: the data's preparation resizes.
    """
    height, width = policy.config.image_resolution
    if images.ndim != 5 or tuple(images.shape[2:]) != (3, height, width):
        raise ValueError(f"images must be [B, V, 3, {height}, {width}], found {tuple(images.shape)}")
    tower = policy.model.paligemma_with_expert
    # Camera by camera, as LeRobot does: a fused batch would pick other kernels and other last digits.
    return torch.stack([tower.embed_image(images[:, view] * 2.0 - 1.0) for view in range(images.shape[1])], dim=1)


def text_embeddings(policy: PI05Policy, tokens: Tensor) -> Tensor:
    """Embeddings ``[B, L, d]`` of prompt tokens ``[B, L]``, scaled as the language model expects them."""
    return policy.model.paligemma_with_expert.embed_language_tokens(tokens)


def assemble(vision: Tensor, text: Tensor, text_mask: Tensor, extra: Tensor | None = None) -> Prefix:
    """Join image tokens ``[B, V, P, d]``, text ``[B, L, d]`` with its mask ``[B, L]``, and appended tokens
    ``[B, Ns, d]`` into a prefix, whose real tokens all attend to each other."""
    images = vision.flatten(1, 2)
    parts, masks = [images, text], [text_mask.new_ones(images.shape[:2]), text_mask]
    if extra is not None:
        parts.append(extra)
        masks.append(text_mask.new_ones(extra.shape[:2]))
    return Prefix(torch.cat(parts, dim=1), torch.cat(masks, dim=1))


def encode(policy: PI05Policy, prefix: Prefix, *, hidden_states: bool = False, cache: bool = True) -> Encoded:
    """One pass of the language model over the prefix, as LeRobot's ``sample_actions`` makes it, with gradients if on.

    Works with LoRA attached to the language model. Raises :class:`ValueError` where a cache is asked for under gradient
    checkpointing in training mode, in which the language model makes none.
    """
    return _run(_language_model(policy), prefix.embeddings, prefix.pad_mask, hidden_states, cache)


def encode_early(policy: PI05Policy, prefix: Prefix, first: int, *, cache: bool = True) -> Encoded:
    """The prefix before decoder layer ``first``: ``last`` is what that layer reads, not normed. No gradient."""
    model = _language_model(policy)
    with torch.no_grad(), _only_layers(model, 0, first):
        return _run(model, prefix.embeddings, prefix.pad_mask, False, cache)


def early_part(encoded: Encoded, first: int) -> Encoded:
    """What :func:`encode_early` returns, taken from a whole pass that kept its hidden states."""
    cache = None if encoded.cache is None else DynamicCache(tuple(encoded.cache)[:first])
    return Encoded(cache, encoded.pad_mask, encoded.layer(first - 1), None)


def encode_late(policy: PI05Policy, early: Encoded, hidden: Tensor, first: int, *, cache: bool = True) -> Encoded:
    """Run the decoder layers from ``first`` on over ``hidden`` ``[B, N, d]``, which replaces ``early.last``.

    Equal to :func:`encode` to the bit where ``hidden`` is ``early.last``. With ``cache`` the early keys and values
    are those of ``early``.
    """
    model = _language_model(policy)
    with _only_layers(model, first, len(model.layers)):
        late = _run(model, hidden, early.pad_mask, True, cache)
    joined = DynamicCache(tuple(early.keys_values()) + tuple(late.keys_values())[first:]) if cache else None
    return replace(late, cache=joined, layers=(None,) * first + (late.layers or ()))


def _language_model(policy: PI05Policy) -> Any:
    return policy.model.paligemma_with_expert.paligemma.model.language_model


class _NoNorm(nn.Module):
    """Replaces the final norm of a pass that stops early: the next layer reads hidden states that are not normed."""

    def forward(self, hidden: Tensor, condition: Tensor | None = None) -> tuple[Tensor, None]:
        return hidden, None


@contextmanager
def _only_layers(model: Any, first: int, last: int) -> Iterator[None]:
    """Inside the block the language model consists of its layers from ``first`` to before ``last``.

    LeRobot's forward runs ``model.layers`` and then ``model.norm``; it has no argument for a part of them.
    """
    layers, norm = model.layers, model.norm
    model.layers = layers[first:last]
    if last < len(layers):
        model.norm = _NoNorm()
    try:
        yield
    finally:
        model.layers, model.norm = layers, norm


def _run(model: Any, embeddings: Tensor, pad_mask: Tensor, hidden_states: bool, cache: bool) -> Encoded:
    # As LeRobot's sample_actions sets it: eager attention takes the additive 4-D mask below, and the action expert,
    # which attends to these keys and values, runs eagerly too. Another kernel would give other last digits.
    model.config._attn_implementation = "eager"
    # As LeRobot's training forward casts them: some embeddings come in float32, which bfloat16 layers refuse.
    if model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16:
        embeddings = embeddings.to(torch.bfloat16)
    # All zeros: no token begins a new block, so that images, prompt and appended tokens all attend to each other.
    all_to_all = make_att_2d_masks(pad_mask, torch.zeros_like(pad_mask))
    output = model.forward(
        inputs_embeds=embeddings,
        attention_mask=prepare_attention_masks_4d(all_to_all),
        # Padding takes no position: a real token's position counts the real tokens before it.
        position_ids=torch.cumsum(pad_mask, dim=1) - 1,
        past_key_values=None,
        use_cache=cache,
        adarms_cond=None,
        output_hidden_states=hidden_states,
    )
    if cache and output.past_key_values is None:
        raise ValueError("the language model gave no cache: switch gradient checkpointing off or use eval mode")
    layers = tuple(output.hidden_states[1:]) if hidden_states else None
    return Encoded(output.past_key_values, pad_mask, output.last_hidden_state, layers)


def repeat(encoded: Encoded, draws: int) -> Encoded:
    """The same prefix ``draws`` times in a row for each sample: batch B becomes B·K, sample-major."""
    if draws == 1:
        return encoded
    cache = [
        (keys.repeat_interleave(draws, dim=0), values.repeat_interleave(draws, dim=0), window)
        for keys, values, window in encoded.keys_values()
    ]
    # The action expert does not read the hidden states, so they are not repeated.
    return Encoded(DynamicCache(cache), encoded.pad_mask.repeat_interleave(draws, dim=0), encoded.last, None)


def integrate(policy: PI05Policy, encoded: Encoded, noise: Tensor, num_steps: int) -> Tensor:
    """Action chunks ``[B, K, Tc, A]`` from noise ``[B, K, Tc, Ap]`` in ``num_steps`` Euler steps over the cache.

    In normalised units, with gradients if they are on. For K = 1 bit-identical to ``predict_action_chunk``.
    """
    batch, draws = noise.shape[:2]
    shared = repeat(encoded, draws)

    def velocity(x_t: Tensor, time: Tensor) -> Tensor:
        # denoise_step copies the cache before the expert appends its own keys, so that every step reads the same one.
        return policy.model.denoise_step(shared.pad_mask, shared.cache, x_t, time)

    actions = euler_integrate(velocity, noise.flatten(0, 1), num_steps)
    return actions.unflatten(0, (batch, draws))[..., : policy.config.output_features["action"].shape[0]]


def flow_matching_loss(policy: PI05Policy, encoded: Encoded, actions: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """π0.5's flow-matching loss, unreduced ``[B, K, Tc, A]``, of K noise draws that share one prefix.

    ``actions`` ``[B, Tc, A]`` are normalised, ``noise`` is ``[B, K, Tc, Ap]``, ``time`` ``[B, K]`` lies in (0, 1] and 1
    is pure noise. Equal to LeRobot's joint training forward at K = 1, because the prefix never attends to the actions.
    """
    batch, draws = time.shape
    shared = repeat(encoded, draws)
    target = pad_vector(actions, policy.config.max_action_dim).repeat_interleave(draws, dim=0)
    flat_noise, flat_time = noise.flatten(0, 1), time.flatten()
    weight = flat_time[:, None, None]
    x_t = weight * flat_noise + (1 - weight) * target
    velocity = policy.model.denoise_step(shared.pad_mask, shared.cache, x_t, flat_time)
    loss = (flat_noise - target - velocity).square()
    return loss.unflatten(0, (batch, draws))[..., : actions.shape[-1]]
