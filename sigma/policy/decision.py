"""One decision of Sigma: the frozen base's pass, the adapted pass, the telepathy path and the residuals.

Legend: B batch, T horizon, A action dim, P pooled vectors, d backbone width, K factors, E factor dim.
"""

from dataclasses import dataclass, replace

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import PeftModel
from torch import Tensor, nn

from sigma.policy import lora, prefix
from sigma.policy.heads import Heads, MLPHeads, TelepathyHeads
from sigma.policy.observation import BasePass, Observation, base_pass, pool
from sigma.policy.residuals import Residuals
from sigma.policy.telepathy import Thought


@dataclass(frozen=True)
class Decision:
    """What Sigma says at B decisions; actions in normalised units. The residual MLP has no thought."""

    residuals: Residuals
    thought: Thought | None
    alignment: Tensor | None  # (B,) cos(g, mean frozen embedding of the instruction)
    previous: Tensor | None  # (B, K, E) τ_prev, what FiLM reads


@dataclass(frozen=True)
class FactorSwap:
    """Factors that take the place of the model's own, to measure what they carry: τ where the heads read it, τ_prev
    where FiLM does. Both come from one source."""

    factors: Tensor  # (B, K, E)
    previous: Tensor  # (B, K, E)


class SigmaModel(nn.Module):
    """LoRA and telepathy heads on a frozen π0.5; works on normalised, tokenised inputs.

    The adapted pass reads ``[v'; prompt; state tokens]``: FiLM on the image tokens by the factors of the carried state,
    the prompt as π0.5 writes it, and appended state tokens. With the residual MLP it reads ``[v; prompt]``.
    """

    def __init__(self, adapted: PeftModel, heads: Heads):
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
        self,
        observation: Observation,
        base_action: Tensor,
        *,
        adapters: bool = True,
        film: bool = True,
        swap: FactorSwap | None = None,
    ) -> Decision:
        """Residuals, factors and alignment; ``adapters`` and ``film`` off is the control pass of CHECK A.

        Args:
            observation: B decisions.
            base_action: (B, T, A) the action that the residual corrects, normalised; no gradient flows into it.
            swap: factors instead of the model's own; only telepathy heads have any.
        """
        if not adapters:
            with lora.disabled(self.adapted):
                return self(observation, base_action, film=film, swap=swap)
        if isinstance(self.heads, MLPHeads):
            if swap is not None:
                raise ValueError("a residual MLP reads no factors, so none can be swapped")
            return self._plain(self.heads, observation, base_action)
        return self._telepathic(self.heads, observation, base_action, film, swap)

    def _plain(self, heads: MLPHeads, observation: Observation, base_action: Tensor) -> Decision:
        """The residual MLP on the base's own prefix; the past is not read."""
        vision = observation.vision
        text = prefix.text_embeddings(self.policy, observation.tokens)
        embedded = prefix.assemble(vision.to(text.dtype), text, observation.mask)
        encoded = prefix.encode(self.policy, embedded, hidden_states=True, cache=False)
        residuals = heads.residuals(
            [encoded.layers[index] for index in heads.sizes.read_layers],
            lambda features: pool(features, vision.shape[1], vision.shape[2], observation.groups),
            observation.state,
            base_action,
        )
        return Decision(residuals, None, None, None)

    def _telepathic(
        self, heads: TelepathyHeads, observation: Observation, base_action: Tensor, film: bool, swap: FactorSwap | None
    ) -> Decision:
        policy = self.policy
        carry = heads.path.carry(observation.history, observation.present, observation.text)
        previous = heads.path.previous_factors(carry) if swap is None else swap.previous
        vision = observation.vision
        if film and heads.sizes.film:
            vision = heads.film(vision, previous)
        text = prefix.text_embeddings(policy, observation.tokens)
        state_tokens = heads.state_encoder(observation.state).to(text.dtype)
        embedded = prefix.assemble(vision.to(text.dtype), text, observation.mask, extra=state_tokens)
        encoded = prefix.encode(policy, embedded, hidden_states=True, cache=False)
        pooled = pool(encoded.last, vision.shape[1], vision.shape[2], observation.groups)
        thought = heads.path.think(carry, pooled, observation.text)
        if swap is not None:
            thought = replace(thought, factors=swap.factors)
        residuals = heads.residuals(
            [encoded.layers[index] for index in heads.sizes.read_layers],
            encoded.pad_mask,
            thought.factors,
            observation.state,
            base_action,
        )
        alignment = torch.cosine_similarity(thought.semantic, observation.text.float(), dim=-1)
        return Decision(residuals, thought, alignment, previous)
