"""π0.5 in parts: image and text embeddings, one pass over the prefix, and the action expert over its cache.

Every function runs LeRobot's own modules in LeRobot's own order, so that for one noise draw the actions equal
``PI05Policy.predict_action_chunk`` to the bit. Three things are added: a caller may change or append prefix tokens,
steer the action expert, and let several noise draws share one prefix.

Legend: B batch, V cameras, P tokens an image, L prompt tokens, N prefix tokens, Ns appended tokens, d language-model
width, w_e width of the action expert, K noise draws, Tc action chunk, A action dim, Ap the policy's padded action dim
(``config.max_action_dim``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.common.vla_utils import make_att_2d_masks, pad_vector, prepare_attention_masks_4d
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class Prefix:
    """What the language model reads: embeddings ``[B, N, d]`` and the mask of real tokens ``[B, N]``."""

    embeddings: Tensor
    pad_mask: Tensor


@dataclass(frozen=True)
class Encoded:
    """A prefix after the language model."""

    cache: DynamicCache  # keys and values of every layer, which the action expert attends to
    pad_mask: Tensor  # [B, N] bool, true at real tokens
    last: Tensor  # [B, N, d] after the final norm
    appended: int = 0  # tokens after the prompt, which take no position of the action expert's


@dataclass(frozen=True)
class Steering:
    """What is added inside the action expert before its first layer, for every noise draw and time alike."""

    condition: Tensor  # [B, w_e] to the expert's condition, which the time alone gives otherwise
    tokens: Tensor  # [B, Tc, w_e] to its input tokens, one an action


@dataclass(frozen=True)
class Guidance:
    """LeRobot's real-time chunking: what is left of the plan that is executed now pulls the next one to itself."""

    processor: RTCProcessor
    left_over: Tensor  # [B, n, A] normalised actions
    delay: int  # control steps that pass before the next plan is executed
    horizon: int | None = None  # control steps over which the pull fades; None for the processor's own


_guidance: ContextVar[Guidance | None] = ContextVar("guidance", default=None)


@contextmanager
def guided(guidance: Guidance | None) -> Iterator[None]:
    """Inside the block every action is integrated under this guidance."""
    token = _guidance.set(guidance)
    try:
        yield
    finally:
        _guidance.reset(token)


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


def encode(policy: PI05Policy, prefix: Prefix, appended: int = 0) -> Encoded:
    """One pass of the language model over the prefix, as LeRobot's ``sample_actions`` makes it, with gradients if on.

    ``appended`` of the prefix's tokens are not the base's own (``extra`` of :func:`assemble`). Works with LoRA attached
    to the language model. Raises :class:`ValueError` in training mode under LeRobot's own gradient checkpointing, which
    makes no cache; :mod:`sigma.policy.pi05.recompute` has one that does.
    """
    model: Any = policy.model.paligemma_with_expert.paligemma.model.language_model
    # As LeRobot's sample_actions sets it: eager attention takes the additive 4-D mask below, and the action expert,
    # which attends to these keys and values, runs eagerly too. Another kernel would give other last digits.
    model.config._attn_implementation = "eager"
    embeddings, pad_mask = prefix.embeddings, prefix.pad_mask
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
        use_cache=True,
        adarms_cond=None,
    )
    if output.past_key_values is None:
        raise ValueError("the language model gave no cache: switch LeRobot's gradient checkpointing off")
    return Encoded(output.past_key_values, pad_mask, output.last_hidden_state, appended)


def repeat(encoded: Encoded, draws: int) -> Encoded:
    """The same prefix ``draws`` times in a row for each sample: batch B becomes B·K, sample-major."""
    if draws == 1:
        return encoded
    cache = [
        (keys.repeat_interleave(draws, dim=0), values.repeat_interleave(draws, dim=0), window)
        for keys, values, window in encoded.cache
    ]
    # The action expert does not read the hidden states, so they are not repeated.
    return replace(encoded, cache=DynamicCache(cache), pad_mask=encoded.pad_mask.repeat_interleave(draws, dim=0))


def velocity(
    policy: PI05Policy, encoded: Encoded, x_t: Tensor, time: Tensor, steering: Steering | None = None
) -> Tensor:
    """The flow's velocity ``[B, Tc, Ap]`` at noisy actions ``x_t`` ``[B, Tc, Ap]`` and times ``[B]``.

    LeRobot's ``denoise_step`` with two differences: ``steering`` is added before the expert's first layer, and actions
    take the positions after the base's own prefix, whatever was appended to it. LeRobot counts every prefix token, and
    an expert whose actions are moved by a few positions is a damaged one. Without either difference the result is
    LeRobot's own, to the bit.
    """
    model = policy.model
    embedded, pad_mask, blocks, condition = model.embed_suffix(x_t, time)
    if steering is not None:
        embedded = embedded + steering.tokens.to(embedded.dtype)
        condition = condition + steering.condition.to(condition.dtype)
    prefix_mask = encoded.pad_mask[:, None, :].expand(-1, pad_mask.shape[1], -1)
    attention = torch.cat([prefix_mask, make_att_2d_masks(pad_mask, blocks)], dim=2)
    before = encoded.pad_mask.sum(dim=-1, keepdim=True) - encoded.appended
    expert: Any = model.paligemma_with_expert
    expert.gemma_expert.model.config._attn_implementation = "eager"
    outputs, _ = expert.forward(
        attention_mask=prepare_attention_masks_4d(attention),
        position_ids=before + torch.cumsum(pad_mask, dim=1) - 1,
        # The expert appends its own keys to the cache's lists, so every call gets lists of its own; the tensors in them
        # are never written to, and need no copy.
        past_key_values=DynamicCache(tuple(encoded.cache)),
        inputs_embeds=[None, embedded],
        use_cache=False,
        adarms_cond=[None, condition],
    )
    return model.action_out_proj(outputs[1][:, -policy.config.chunk_size :].to(torch.float32))


def _repeat_steering(steering: Steering | None, draws: int) -> Steering | None:
    if steering is None or draws == 1:
        return steering
    parts = (part.repeat_interleave(draws, dim=0) for part in (steering.condition, steering.tokens))
    return Steering(*parts)


def integrate(
    policy: PI05Policy, encoded: Encoded, noise: Tensor, num_steps: int, steering: Steering | None = None
) -> Tensor:
    """Action chunks ``[B, K, Tc, A]`` from noise ``[B, K, Tc, Ap]`` in ``num_steps`` Euler steps over the cache.

    In normalised units, with gradients if they are on. For K = 1 bit-identical to ``predict_action_chunk``, also inside
    :func:`guided`.
    """
    batch, draws = noise.shape[:2]
    shared, steered = repeat(encoded, draws), _repeat_steering(steering, draws)
    guidance, options = _guidance.get(), {}
    if guidance is not None:
        options = {
            "rtc_processor": guidance.processor,
            "rtc_enabled": True,
            "inference_delay": guidance.delay,
            "prev_chunk_left_over": guidance.left_over.repeat_interleave(draws, dim=0),
            "execution_horizon": guidance.horizon,
        }
    actions = euler_integrate(
        lambda x_t, time: velocity(policy, shared, x_t, time, steered), noise.flatten(0, 1), num_steps, **options
    )
    return actions.unflatten(0, (batch, draws))[..., : policy.config.output_features["action"].shape[0]]


def flow_matching_loss(
    policy: PI05Policy, encoded: Encoded, actions: Tensor, noise: Tensor, time: Tensor, steering: Steering | None = None
) -> Tensor:
    """π0.5's flow-matching loss, unreduced ``[B, K, Tc, A]``, of K noise draws that share one prefix.

    ``actions`` ``[B, Tc, A]`` are normalised, ``noise`` is ``[B, K, Tc, Ap]``, ``time`` ``[B, K]`` lies in (0, 1] and 1
    is pure noise. Equal to LeRobot's joint training forward at K = 1, because the prefix never attends to the actions.
    """
    batch, draws = time.shape
    target = pad_vector(actions, policy.config.max_action_dim).repeat_interleave(draws, dim=0)
    flat_noise, flat_time = noise.flatten(0, 1), time.flatten()
    weight = flat_time[:, None, None]
    x_t = weight * flat_noise + (1 - weight) * target
    predicted = velocity(policy, repeat(encoded, draws), x_t, flat_time, _repeat_steering(steering, draws))
    loss = (flat_noise - target - predicted).square()
    return loss.unflatten(0, (batch, draws))[..., : actions.shape[-1]]
