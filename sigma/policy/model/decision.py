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
from sigma.policy.model.telepathy import Anticipation, TelepathyState
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.observation import BasePass, Observation, base_pass, pool


@dataclass(frozen=True)
class Decision:
    """What Sigma predicts at B decisions; actions in normalised units."""

    residuals: dict[str, Tensor]  # (B, n, A) by span
    telepathy: TelepathyState | None  # None for the residual MLP


@dataclass(frozen=True)
class FactorSwap:
    """Factors that replace the model's own, to measure what they carry: τ where the heads read them, τ' where the
    backbone does. Both come from one source."""

    factors: Tensor  # (B, K, E)
    anticipated: Tensor  # (B, K, E)


@dataclass(frozen=True)
class AdaptedPass(BasePass):
    """The adapted backbone's prefix and pooled features, and the anticipation before it."""

    anticipation: Anticipation | None  # None for the residual MLP


class SigmaModel(nn.Module):
    """LoRA and telepathy heads on a frozen π0.5; works on normalised, tokenised inputs.

    The adapted pass reads ``[v'; prompt; state tokens; factor tokens]``: FiLM on the image tokens by the anticipated
    factors, the prompt as π0.5 writes it, and state and factor tokens where the sizes ask for them. With the residual
    MLP it reads ``[v; prompt]``. With the adapted branch the action expert integrates its action over the keys and
    values of this same pass. Before training the pass equals the frozen base's to the bit, if no tokens are added.
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
        """The base's pass with LoRA switched off: the frozen π0.5, to the bit."""
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
        """The adapted backbone's pass, which the heads read and, with the adapted branch, the action expert too.

        Args:
            observation: B decisions with the frozen features of the present (:meth:`Observation.with_frozen_features`).
            film: False leaves the image tokens as they are.
            swap: factors instead of the model's own; only telepathy heads have any.
            cache: False where the action expert does not read the pass.
            frozen: :meth:`frozen_pass` of these decisions, where the caller has made it already and the adapted pass
                shares its first layers (``sizes.from_layer``).
        """
        heads, first = self.heads, self.heads.sizes.from_layer
        (views, patches), film = observation.vision.shape[1:3], film and heads.sizes.film
        anticipation = self._anticipate(observation, swap)
        if first:
            # The layers before `first` are the frozen base's own; FiLM acts on what the first adapted layer reads.
            if frozen is None:
                early = prefix.encode_early(self.policy, self._assemble(observation), first, cache=cache)
            else:
                early = prefix.early_part(frozen.encoded, first)
            hidden = early.last
            if film and anticipation is not None and isinstance(heads, TelepathyHeads):
                image = hidden[:, : views * patches].unflatten(1, (views, patches))
                modulated = heads.film(image, anticipation.factors).flatten(1, 2)
                hidden = torch.cat([modulated, hidden[:, views * patches :]], dim=1)
            encoded = prefix.encode_late(self.policy, early, hidden, first, cache=cache)
        else:
            embedded = self._assemble(observation, anticipation, film=film)
            encoded = prefix.encode(self.policy, embedded, hidden_states=True, cache=cache)
        return AdaptedPass(encoded, pool(encoded.last, views, patches, observation.groups), anticipation)

    def _assemble(
        self, observation: Observation, anticipation: Anticipation | None = None, *, film: bool = False
    ) -> prefix.Prefix:
        """The base's prefix; with an anticipation also FiLM on the image tokens, and state and factor tokens."""
        heads, vision, extra = self.heads, observation.vision, []
        text = prefix.text_embeddings(self.policy, observation.tokens)
        if isinstance(heads, TelepathyHeads) and anticipation is not None:
            if film:
                vision = heads.film(vision, anticipation.factors)
            if heads.state_encoder is not None:
                extra.append(heads.state_encoder(observation.state).to(text.dtype))
            if heads.factor_tokens is not None:
                extra.append(heads.factor_tokens(anticipation.factors).to(text.dtype))
        appended = torch.cat(extra, dim=1) if extra else None
        return prefix.assemble(vision.to(text.dtype), text, observation.mask, extra=appended)

    def _anticipate(self, observation: Observation, swap: FactorSwap | None) -> Anticipation | None:
        """Memory, intent and factors before the adapted pass; None for the residual MLP, which has none to swap."""
        if not isinstance(self.heads, TelepathyHeads):
            if swap is not None:
                raise ValueError("a residual MLP reads no factors, so none can be swapped")
            return None
        if observation.now is None:
            raise ValueError("the frozen base's pass over the present comes first: Observation.with_frozen_features")
        anticipation = self.heads.path.anticipate(
            observation.history, observation.present, observation.now, observation.motion, observation.text
        )
        return anticipation if swap is None else replace(anticipation, factors=swap.anticipated)

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
        """Residuals and telepathy; with ``adapters`` and ``film`` False this is the control pass of CHECK A.

        Args:
            observation: B decisions.
            base_action: (B, T, A) the action that the residual corrects, normalised; no gradient flows into it.
            swap: factors instead of the model's own; only telepathy heads have any.
            passed: the adapted pass of these decisions, where the caller has made it already; ``film`` and
                ``adapters`` must then be those that it was made with.
        """
        if not adapters:
            with lora.disabled(self.adapted):
                return self(observation, base_action, film=film, swap=swap, passed=passed)
        passed = passed or self.adapted_pass(observation, film=film, swap=swap, cache=False)
        heads, image = self.heads, observation.vision.shape
        inputs = (
            [passed.encoded.layer(index) for index in heads.sizes.read_layers],
            lambda features: pool(features, image[1], image[2], observation.groups),
            observation.state,
            base_action,
        )
        if isinstance(heads, MLPHeads) or passed.anticipation is None:
            return Decision(heads.residuals(*inputs), None)
        telepathy = heads.path.update(passed.anticipation, passed.pooled, observation.text)
        if swap is not None:
            telepathy = replace(telepathy, factors=swap.factors)
        return Decision(heads.residuals(*inputs, telepathy.factors), telepathy)
