"""One decision of Sigma: the frozen base's pass, the adapted pass, the telepathy path and the residuals.

Legend: B batch, T horizon, A action dim, P pooled vectors, d backbone width.
"""

from dataclasses import dataclass

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import PeftModel
from torch import Tensor, nn

from sigma.policy import lora, prefix
from sigma.policy.heads import TelepathyHeads
from sigma.policy.observation import BasePass, Observation, base_pass, pool
from sigma.policy.residuals import Residuals
from sigma.policy.telepathy import Thought


@dataclass(frozen=True)
class Decision:
    """What Sigma says at B decisions; actions in normalised units."""

    residuals: Residuals
    thought: Thought
    alignment: Tensor  # (B,) cos(g, mean frozen embedding of the instruction)


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
        encoded = prefix.encode(policy, embedded, hidden_states=True, cache=False)
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
