"""The telepathy path: state tokens, memory and intent, telepathy factors, FiLM on vision tokens.

The source's card names these parts (semantic memory m_t, intent z_intent, telepathy factors, FiLM-style modulation,
semantic factors aligned with the text space); it gives no equations. Every equation here is our own design.

Legend: B batch, M history (the decision step included), V cameras, P pooled vectors (V cameras, instruction, state),
N tokens, d backbone width, w inner width, D state dim, S control steps of the trace, K factors, E factor dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sigma.policy.model.sizes import TelepathySizes


@dataclass(frozen=True)
class Anticipation:
    """Memory, intent and factors from the past and the frozen base's pass over the present, before the adapted pass."""

    memory: Tensor  # (B, w) m'_t
    intent: Tensor  # (B, w) z'_t
    factors: Tensor  # (B, K, E) τ'


@dataclass(frozen=True)
class TelepathyState:
    """The telepathy path's state at B decisions, after the adapted pass."""

    memory: Tensor  # (B, w) m_t
    intent: Tensor  # (B, w) z_t
    factors: Tensor  # (B, K, E) τ
    semantic: Tensor  # (B, d) g, in the space of the backbone's text embeddings
    intent_view: Tensor  # (B, K, E) the intent's own prediction of τ's direction, for intent–telepathy alignment
    alignment: Tensor  # (B,) cos(g, mean frozen embedding of the instruction)
    anticipated: Tensor  # (B, K, E) τ', which FiLM read before the adapted pass


class PooledEncoder(nn.Module):
    """x = W · concat_p LayerNorm(u_p): pooled backbone features (B, P, d) to one vector (B, w)."""

    def __init__(self, pools: int, width: int, inner: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(pools * width, inner)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.project(self.norm(pooled.float()).flatten(1))


class MotionEncoder(nn.Module):
    """An MLP from the motion (B, S, D) of the control steps before a decision to one vector (B, w).

    The motion is divided by ``rms`` (D,), each joint's root mean square over the train windows: in units of a joint's
    whole range, the motion of a few control steps would be negligible beside the pooled features.
    """

    rms: Tensor

    def __init__(self, sizes: TelepathySizes):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(sizes.trace * sizes.state_dim, sizes.inner), nn.GELU(), nn.Linear(sizes.inner, sizes.inner)
        )
        self.register_buffer("rms", torch.ones(sizes.state_dim))

    def forward(self, motion: Tensor) -> Tensor:
        return self.mlp((motion.float() / self.rms).flatten(1))


class AppendedTokens(nn.Module):
    """Tokens (B, N, d) that are appended to the prompt, at the scale of its text embeddings.

    ``token_rms`` is the root mean square of the frozen base's text embeddings: the backbone was not trained on tokens
    of another size.
    """

    token_rms: Tensor

    def __init__(self, tokens: int, width: int, token_rms: float):
        super().__init__()
        self.tokens, self.width = tokens, width
        self.register_buffer("token_rms", torch.tensor(float(token_rms)))

    def scaled(self, flat: Tensor) -> Tensor:
        """(B, N·d) as tokens (B, N, d) of the right size."""
        return functional.layer_norm(flat.unflatten(-1, (self.tokens, self.width)), (self.width,)) * self.token_rms


class FactorTokens(AppendedTokens):
    """``N_f`` tokens that pass the anticipated factors (B, K, E) to the backbone."""

    def __init__(self, sizes: TelepathySizes, token_rms: float):
        super().__init__(sizes.factor_tokens, sizes.width, token_rms)
        self.project = nn.Linear(sizes.factors * sizes.factor_dim, sizes.factor_tokens * sizes.width)

    def forward(self, factors: Tensor) -> Tensor:
        return self.scaled(self.project(normalise_factors(factors).flatten(1)))


class StateEncoder(AppendedTokens):
    """An MLP from the normalised state (B, D) to ``N_s`` tokens."""

    def __init__(self, sizes: TelepathySizes, token_rms: float):
        super().__init__(sizes.state_tokens, sizes.width, token_rms)
        self.mlp = nn.Sequential(
            nn.Linear(sizes.state_dim, sizes.inner), nn.GELU(), nn.Linear(sizes.inner, sizes.state_tokens * sizes.width)
        )

    def forward(self, state: Tensor) -> Tensor:
        return self.scaled(self.mlp(state))


def normalise_factors(factors: Tensor) -> Tensor:
    """Layer-norm the factors (B, K, E) over all K·E numbers of a decision, so that only their direction is passed on.

    Their norm is left to the loss, which controls it, and to the adapter, which reads an unusual norm as risk.
    """
    return functional.layer_norm(factors, factors.shape[1:])


class FiLM(nn.Module):
    """(γ, β) = W_f (exp(θ_τ) ⊙ N(τ')); v' = (1 + γ) ⊙ v + β. W_f starts at zero, so that v' = v."""

    def __init__(self, factors: int, factor_dim: int, width: int):
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(factors, 1))
        self.modulation = nn.Linear(factors * factor_dim, 2 * width, bias=False)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, vision: Tensor, factors: Tensor) -> Tensor:
        """Modulate vision tokens (B, V, n, d) by the anticipated factors (B, K, E)."""
        modulation = self.modulation((self.log_gain.exp() * normalise_factors(factors)).flatten(1)).to(vision.dtype)
        gamma, beta = modulation[:, None, None, :].chunk(2, dim=-1)
        return (1 + gamma) * vision + beta


class TelepathyPath(nn.Module):
    """Memory m, intent z, factors τ and semantic factors g.

    With x the encoded pooled features of a decision and e its instruction's mean frozen embedding::

        m_k = GRU_m(x_k, m_{k-1})          z_k = GRU_z(W [m_k; e], z_{k-1})
        τ   = F([m; z]) ∈ R^{K×E}          g   = W_g m

    The recurrence runs over the last M−1 decisions and then over the present one, each time on the *frozen* base's
    pooled features (cached by `baseline`, a queue at run time), which are known before the adapted pass; at the present
    one the motion of the last S control steps is read too. That gives m', z' and the anticipated factors τ', by which
    FiLM modulates the adapted backbone. The adapted pass's pooled features then update m' and z' to m, z and τ.

    The past is a window of decisions, so that the streaming and the batched form are the same computation. With
    ``sizes.factor_source == "constant"`` τ and τ' are one learned constant. With ``sizes.memory == "reset"`` neither
    earlier decisions nor the motion are read, an ablation of memory alone.
    """

    def __init__(self, sizes: TelepathySizes):
        super().__init__()
        self.sizes = sizes
        inner, flat = sizes.inner, sizes.factors * sizes.factor_dim
        self.frozen_encoder = PooledEncoder(sizes.pools, sizes.width, inner)
        self.adapted_encoder = PooledEncoder(sizes.pools, sizes.width, inner)
        self.motion_encoder = MotionEncoder(sizes) if sizes.trace else None
        self.text_norm = nn.LayerNorm(sizes.width)
        self.memory_cell = nn.GRUCell(inner, inner)
        self.intent_input = nn.Linear(inner + sizes.width, inner)
        self.intent_cell = nn.GRUCell(inner, inner)
        self.factor_network = nn.Sequential(nn.Linear(2 * inner, 2 * inner), nn.GELU(), nn.Linear(2 * inner, flat))
        self.semantic_head = nn.Linear(inner, sizes.width)
        self.intent_view = nn.Linear(inner, flat)
        if sizes.factor_source == "constant":
            self.constant_factors = nn.Parameter(torch.randn(sizes.factors, sizes.factor_dim))

    def before_pass(self) -> dict[str, nn.Parameter]:
        """The parameters that the anticipated factors depend on, by name."""
        after_pass = ("adapted_encoder.", "semantic_head.", "intent_view.")
        return {name: parameter for name, parameter in self.named_parameters() if not name.startswith(after_pass)}

    def _step(self, encoded: Tensor, text: Tensor, memory: Tensor, intent: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.memory_cell(encoded, memory)
        intent = self.intent_cell(self.intent_input(torch.cat([memory, text], dim=-1)), intent)
        return memory, intent

    def anticipate(self, history: Tensor, present: Tensor, now: Tensor, motion: Tensor, text: Tensor) -> Anticipation:
        """Run the recurrence over the past decisions and the frozen base's pass over the present.

        Args:
            history: (B, M−1, P, d) pooled frozen features of the earlier decisions, oldest first.
            present: (B, M−1) bool, False before the episode began.
            now: (B, P, d) pooled frozen features of this decision.
            motion: (B, S, D) normalised states of the control steps before, minus the present one.
            text: (B, d) mean frozen embedding of the instruction.

        Raises:
            ValueError: the motion is not of ``sizes.trace`` steps.
        """
        carried = self.sizes.memory == "carried"
        text = self.text_norm(text.float())
        memory = text.new_zeros(len(text), self.sizes.inner)
        intent = torch.zeros_like(memory)
        for index in range(history.shape[1] if carried else 0):
            # A decision before the episode began leaves memory and intent as they are.
            here = present[:, index, None]
            new_memory, new_intent = self._step(self.frozen_encoder(history[:, index]), text, memory, intent)
            memory, intent = torch.where(here, new_memory, memory), torch.where(here, new_intent, intent)
        encoded = self.frozen_encoder(now)
        if self.motion_encoder is not None and carried:
            if motion.shape[1] != self.sizes.trace:
                raise ValueError(f"the motion has {motion.shape[1]} control steps; the model reads {self.sizes.trace}")
            encoded = encoded + self.motion_encoder(motion)
        memory, intent = self._step(encoded, text, memory, intent)
        return Anticipation(memory, intent, self.factors(memory, intent))

    def factors(self, memory: Tensor, intent: Tensor) -> Tensor:
        """τ ∈ (B, K, E) from memory and intent (B, w)."""
        if self.sizes.factor_source == "constant":
            return self.constant_factors.expand(len(memory), -1, -1)
        flat = self.factor_network(torch.cat([memory, intent], dim=-1))
        return flat.unflatten(-1, (self.sizes.factors, self.sizes.factor_dim))

    def update(self, anticipation: Anticipation, pooled: Tensor, text: Tensor) -> TelepathyState:
        """Update the anticipation with the pooled adapted features (B, P, d) of the decision itself.

        ``text`` (B, d) is the mean frozen embedding of the instruction.
        """
        normed = self.text_norm(text.float())
        memory, intent = self._step(self.adapted_encoder(pooled), normed, anticipation.memory, anticipation.intent)
        # The order of these lines is the order in which autograd adds up gradients: another order changes last digits.
        view = self.intent_view(intent).unflatten(-1, (self.sizes.factors, self.sizes.factor_dim))
        factors, semantic = self.factors(memory, intent), self.semantic_head(memory)
        alignment = torch.cosine_similarity(semantic, text.float(), dim=-1)
        return TelepathyState(memory, intent, factors, semantic, view, alignment, anticipation.factors)
