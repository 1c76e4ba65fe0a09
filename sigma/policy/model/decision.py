"""One decision of Sigma: what is remembered, the telepathy factors, and the adapted pass that they steer.

Legend: B batch, V cameras, n tokens an image, d backbone width.
"""

from dataclasses import dataclass

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import PeftModel
from torch import nn

from sigma.policy.model import lora
from sigma.policy.model.heads import TelepathyHeads
from sigma.policy.model.telepathy import Memory, TelepathyState
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.observation import BasePass, Observation, Past, base_pass


@dataclass(frozen=True)
class AdaptedPass:
    """An adapted policy's prefix, and what steers its action expert; a policy without telepathy has neither."""

    encoded: prefix.Encoded
    steering: prefix.Steering | None
    telepathy: TelepathyState | None


class SigmaModel(nn.Module):
    """LoRA and telepathy heads on a frozen π0.5; works on normalised, tokenised inputs.

    The adapted pass reads ``[v'; prompt; factor tokens]``: FiLM on the image tokens by the factors, the prompt as π0.5
    writes it, and factor tokens where the sizes ask for them. The action expert, under LoRA too, integrates Sigma's
    action over the keys and values of this pass, steered by the residual branches. Before training both equal the
    frozen base's to the bit, if no tokens are added.
    """

    def __init__(self, adapted: PeftModel, heads: TelepathyHeads):
        super().__init__()
        self.adapted = adapted
        self.heads = heads

    @property
    def policy(self) -> PI05Policy:
        """The π0.5 policy that LoRA is attached to."""
        return self.adapted.get_base_model()

    def trained(self) -> dict[str, nn.Parameter]:
        """LoRA's parameters by name, in a stable order."""
        return lora.named_parameters(self.adapted)

    def frozen_pass(self, observation: Observation) -> BasePass:
        """The base's pass with LoRA switched off: the frozen π0.5, to the bit."""
        with lora.disabled(self.adapted), torch.no_grad():
            return base_pass(self.policy, observation)

    def adapted_pass(self, observation: Observation, remembered: Memory | Past, *, film: bool = True) -> AdaptedPass:
        """The adapted backbone's pass, over whose keys and values the action expert integrates Sigma's action.

        Args:
            observation: B decisions.
            remembered: memory and intent before them, or the past that they are to be unrolled from.
            film: False leaves the image tokens as they are.
        """
        telepathy, heads = self.telepathy(observation, remembered), self.heads
        vision, factors, extra = observation.vision, telepathy.factors, None
        text = prefix.text_embeddings(self.policy, observation.tokens)
        if film and heads.film is not None:
            vision = heads.film(vision, factors)
        if heads.factor_tokens is not None:
            extra = heads.factor_tokens(factors).to(text.dtype)
        embedded = prefix.assemble(vision.to(text.dtype), text, observation.mask, extra)
        encoded = prefix.encode(self.policy, embedded, heads.sizes.factor_tokens)
        return AdaptedPass(encoded, heads.branches(factors) if heads.branches else None, telepathy)

    def telepathy(self, observation: Observation, remembered: Memory | Past) -> TelepathyState:
        """Factors and semantic factors of B decisions; no weight of LoRA takes part in them."""
        path = self.heads.path
        carried = path.recall(remembered, observation.text) if isinstance(remembered, Past) else remembered
        return path(observation, carried)
