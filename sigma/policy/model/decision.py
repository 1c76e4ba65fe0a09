"""One decision of Sigma: the frozen base's pass, the telepathy path, the adapted pass and the residuals.

Legend: B batch, T horizon, A action dim, P pooled vectors, d backbone width, K factors, E factor dim.
"""

from dataclasses import dataclass, replace

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import PeftModel
from torch import Tensor, nn

from sigma.policy.model import lora
from sigma.policy.model.heads import Heads, MLPHeads, TelepathyHeads
from sigma.policy.model.residuals import Residuals
from sigma.policy.model.telepathy import Anticipation, Thought
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.observation import BasePass, Observation, base_pass, pool


@dataclass(frozen=True)
class Decision:
    """What Sigma says at B decisions; actions in normalised units. The residual MLP has no thought."""

    residuals: Residuals
    thought: Thought | None
    alignment: Tensor | None  # (B,) cos(g, mean frozen embedding of the instruction)
    anticipated: Tensor | None  # (B, K, E) τ', what FiLM tells


@dataclass(frozen=True)
class FactorSwap:
    """Factors that take the place of the model's own, to measure what they carry: τ where the heads read it, τ' where
    the backbone does. Both come from one source."""

    factors: Tensor  # (B, K, E)
    anticipated: Tensor  # (B, K, E)


@dataclass(frozen=True)
class AdaptedPass(BasePass):
    """The adapted backbone's prefix and pooled features, and what was anticipated before it; None for the MLP."""

    before: Anticipation | None


class SigmaModel(nn.Module):
    """LoRA and telepathy heads on a frozen π0.5; works on normalised, tokenised inputs.

    The adapted pass reads ``[v'; prompt; state tokens; factor tokens]``: FiLM on the image tokens by the anticipated
    factors, the prompt as π0.5 writes it, state tokens and factor tokens where there are any. With the residual MLP it
    reads ``[v; prompt]``. With the adapted base branch the action expert acts from this same pass, which without added
    tokens is the base's own to the bit before training.
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
            return base_pass(self.policy, observation, hidden_states=self.heads.sizes.from_layer > 0)

    def adapted_pass(
        self,
        observation: Observation,
        *,
        film: bool = True,
        swap: FactorSwap | None = None,
        cache: bool = True,
        frozen: BasePass | None = None,
    ) -> AdaptedPass:
        """The one pass of the adapted backbone, which heads and, with the adapted branch, action expert read.

        Args:
            observation: B decisions with the frozen features of the present (:meth:`Observation.with_frozen_features`).
            film: False leaves the image tokens as they are.
            swap: factors instead of the model's own; only telepathy heads have any.
            cache: False where the action expert does not read the pass.
            frozen: :meth:`frozen_pass` of these decisions, where it was made already and layers are shared.
        """
        if self.heads.sizes.from_layer:
            return self._late_pass(observation, film=film, swap=swap, cache=cache, frozen=frozen)
        heads, vision, extra, before = self.heads, observation.vision, [], None
        text = prefix.text_embeddings(self.policy, observation.tokens)
        if isinstance(heads, TelepathyHeads):
            before = self._anticipate(heads, observation, swap)
            if film and heads.sizes.film:
                vision = heads.film(vision, before.factors)
            if heads.state_encoder is not None:
                extra.append(heads.state_encoder(observation.state).to(text.dtype))
            if heads.factor_tokens is not None:
                extra.append(heads.factor_tokens(before.factors).to(text.dtype))
        elif swap is not None:
            raise ValueError("a residual MLP reads no factors, so none can be swapped")
        embedded = prefix.assemble(
            vision.to(text.dtype), text, observation.mask, extra=torch.cat(extra, dim=1) if extra else None
        )
        encoded = prefix.encode(self.policy, embedded, hidden_states=True, cache=cache)
        pooled = pool(encoded.last, vision.shape[1], vision.shape[2], observation.groups)
        return AdaptedPass(encoded, pooled, before)

    def _late_pass(
        self,
        observation: Observation,
        *,
        film: bool,
        swap: FactorSwap | None,
        cache: bool,
        frozen: BasePass | None,
    ) -> AdaptedPass:
        """The adapted pass whose layers before ``sizes.from_layer`` are the frozen base's own; FiLM acts on what the
        first adapted layer reads."""
        heads, vision, before = self.heads, observation.vision, None
        first, (views, patches) = heads.sizes.from_layer, vision.shape[1:3]
        if frozen is None:
            embedded = prefix.assemble(
                vision, prefix.text_embeddings(self.policy, observation.tokens), observation.mask
            )
            early = prefix.encode_early(self.policy, embedded, first, cache=cache)
        else:
            early = prefix.early_part(frozen.encoded, first)
        hidden = early.last
        if isinstance(heads, TelepathyHeads):
            before = self._anticipate(heads, observation, swap)
            if film and heads.sizes.film:
                image = hidden[:, : views * patches].unflatten(1, (views, patches))
                told = heads.film(image, before.factors).flatten(1, 2)
                hidden = torch.cat([told, hidden[:, views * patches :]], dim=1)
        elif swap is not None:
            raise ValueError("a residual MLP reads no factors, so none can be swapped")
        encoded = prefix.encode_late(self.policy, early, hidden, first, cache=cache)
        return AdaptedPass(encoded, pool(encoded.last, views, patches, observation.groups), before)

    @staticmethod
    def _anticipate(heads: TelepathyHeads, observation: Observation, swap: FactorSwap | None) -> Anticipation:
        if observation.now is None:
            raise ValueError("the frozen base's pass over the present comes first: Observation.with_frozen_features")
        before = heads.path.anticipate(
            observation.history, observation.present, observation.now, observation.motion, observation.text
        )
        return before if swap is None else replace(before, factors=swap.anticipated)

    def forward(
        self,
        observation: Observation,
        base_action: Tensor,
        *,
        adapters: bool = True,
        film: bool = True,
        swap: FactorSwap | None = None,
        passed: AdaptedPass | None = None,
    ) -> Decision:
        """Residuals, factors and alignment; ``adapters`` and ``film`` off is the control pass of CHECK A.

        Args:
            observation: B decisions.
            base_action: (B, T, A) the action that the residual corrects, normalised; no gradient flows into it.
            swap: factors instead of the model's own; only telepathy heads have any.
            passed: the adapted pass of these decisions, where it was made already (then ``film`` and ``adapters`` are
                what it was made with).
        """
        if not adapters:
            with lora.disabled(self.adapted):
                return self(observation, base_action, film=film, swap=swap, passed=passed)
        passed = passed or self.adapted_pass(observation, film=film, swap=swap, cache=False)
        heads, image = self.heads, observation.vision.shape
        inputs = (
            [passed.encoded.layers[index] for index in heads.sizes.read_layers],
            lambda features: pool(features, image[1], image[2], observation.groups),
            observation.state,
            base_action,
        )
        if isinstance(heads, MLPHeads):
            return Decision(heads.residuals(*inputs), None, None, None)
        thought = heads.path.think(passed.before, passed.pooled, observation.text)
        if swap is not None:
            thought = replace(thought, factors=swap.factors)
        alignment = torch.cosine_similarity(thought.semantic, observation.text.float(), dim=-1)
        return Decision(heads.residuals(*inputs, thought.factors), thought, alignment, passed.before.factors)
