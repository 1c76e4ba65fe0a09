"""One decision of Sigma: the frozen base's pass, the adapted pass, the telepathy path and the residuals.

Legend: B batch, M history (this decision included), V cameras, n tokens an image, L prompt tokens, N prefix tokens,
P pooled vectors (V cameras, instruction, state), d backbone width, D state dim, A action dim, T horizon,
Tc the base's chunk size, S noise draws.
"""

from dataclasses import dataclass, replace

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import PeftModel
from torch import Tensor, nn

from sigma.policy import lora, prefix
from sigma.policy.heads import TelepathyHeads
from sigma.policy.prompt import INSTRUCTION, STATE
from sigma.policy.residuals import Residuals
from sigma.policy.telepathy import Thought


@dataclass(frozen=True)
class Observation:
    """What B decisions may read: the present, and pooled features of the past. Nothing later."""

    vision: Tensor  # (B, V, n, d) image tokens of the frozen tower
    tokens: Tensor  # (B, L) int64 prompt
    mask: Tensor  # (B, L) bool
    groups: Tensor  # (B, L) int8 role of each prompt token
    state: Tensor  # (B, D) normalised
    text: Tensor  # (B, d) mean frozen embedding of the instruction's tokens
    history: Tensor  # (B, M-1, P, d) pooled frozen features of the earlier decisions, oldest first
    present: Tensor  # (B, M-1) bool, False before the episode began

    def to(self, device: torch.device) -> "Observation":
        return Observation(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def rows(self, index: Tensor) -> "Observation":
        return Observation(**{name: value[index] for name, value in vars(self).items()})

    def without_past(self) -> "Observation":
        return replace(self, present=torch.zeros_like(self.present))


@dataclass(frozen=True)
class BasePass:
    """The base's prefix after its language model, and its pooled features (B, P, d)."""

    encoded: prefix.Encoded
    pooled: Tensor


@dataclass(frozen=True)
class Decision:
    """What Sigma says at B decisions; actions in normalised units."""

    residuals: Residuals
    thought: Thought
    alignment: Tensor  # (B,) cos(g, mean frozen embedding of the instruction)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens (B, N, d) where the mask (B, N) holds; zero where it never does."""
    weight = mask.to(values.dtype)[..., None]
    return (values * weight).sum(1) / weight.sum(1).clamp_min(1)


def pool(last: Tensor, views: int, image_tokens: int, groups: Tensor) -> Tensor:
    """Pool a prefix (B, N, d) to (B, P, d): one mean a camera, one over the instruction, one over the state.

    Tokens appended after the prompt are state tokens and count as such.
    """
    values, prompt = last.float(), groups.shape[1]
    start = views * image_tokens
    cameras = values[:, :start].unflatten(1, (views, image_tokens)).mean(2)
    appended = groups.new_full((len(groups), last.shape[1] - start - prompt), STATE)
    roles = torch.cat([groups, appended], dim=1)
    text = values[:, start:]
    pooled = [masked_mean(text, roles == INSTRUCTION), masked_mean(text, roles == STATE)]
    return torch.cat([cameras, torch.stack(pooled, dim=1)], dim=1)


def instruction_embedding(policy: PI05Policy, tokens: Tensor, groups: Tensor) -> Tensor:
    """(B, d) mean of the frozen input embeddings of the instruction's tokens."""
    return masked_mean(prefix.text_embeddings(policy, tokens).float(), groups == INSTRUCTION)


def base_pass(policy: PI05Policy, observation: Observation) -> BasePass:
    """One pass of the policy's own prefix: image tokens and prompt, nothing of Sigma's."""
    vision = observation.vision
    embedded = prefix.assemble(vision, prefix.text_embeddings(policy, observation.tokens), observation.mask)
    encoded = prefix.encode(policy, embedded)
    return BasePass(encoded, pool(encoded.last, vision.shape[1], vision.shape[2], observation.groups))


class SigmaModel(nn.Module):
    """LoRA and telepathy heads on a frozen π0.5; works on normalised, tokenised inputs.

    The adapted pass reads ``[v'; prompt; state tokens]``: FiLM on the image tokens by the factors of the carried state,
    the prompt as π0.5 writes it, and appended state tokens.
    """

    def __init__(self, adapted: PeftModel, heads: TelepathyHeads):
        super().__init__()
        self.adapted = adapted
        self.heads = heads

    @property
    def policy(self) -> PI05Policy:
        """The π0.5 policy that LoRA is attached to."""
        return self.adapted.get_base_model()

    def frozen_pass(self, observation: Observation) -> BasePass:
        """The base's pass with every adapter off: the frozen π0.5, to the bit."""
        with lora.disabled(self.adapted), torch.no_grad():
            return base_pass(self.policy, observation)

    def adapted_pass(self, observation: Observation) -> BasePass:
        """The base's own prefix with LoRA on: what flow matching trains and the adapted branch acts by."""
        return base_pass(self.policy, observation)

    def forward(
        self, observation: Observation, base_action: Tensor, *, adapters: bool = True, film: bool = True
    ) -> Decision:
        """Residuals, factors and alignment; ``adapters`` and ``film`` off is the control pass of CHECK A.

        Args:
            observation: B decisions.
            base_action: (B, T, A) the action that the residual corrects, normalised; no gradient flows into it.
        """
        if not adapters:
            with lora.disabled(self.adapted):
                return self(observation, base_action, film=film)
        heads, policy = self.heads, self.policy
        carry = heads.path.carry(observation.history, observation.present, observation.text)
        vision = observation.vision
        if film and heads.sizes.film:
            vision = heads.film(vision, heads.path.previous_factors(carry))
        text = prefix.text_embeddings(policy, observation.tokens)
        state_tokens = heads.state_encoder(observation.state).to(text.dtype)
        embedded = prefix.assemble(vision.to(text.dtype), text, observation.mask, extra=state_tokens)
        encoded = prefix.encode(policy, embedded, hidden_states=True)
        pooled = pool(encoded.last, vision.shape[1], vision.shape[2], observation.groups)
        thought = heads.path.think(carry, pooled, observation.text)
        residuals = heads.residuals(
            [encoded.layers[index] for index in heads.sizes.read_layers],
            encoded.pad_mask,
            thought.factors,
            observation.state,
            base_action,
        )
        alignment = torch.cosine_similarity(thought.semantic, observation.text.float(), dim=-1)
        return Decision(residuals, thought, alignment)
