"""The telepathy path: state tokens, carried memory and intent, telepathy factors, FiLM on vision tokens.

The source's card names these parts (semantic memory m_t, intent z_intent, telepathy factors, FiLM-style modulation,
semantic factors aligned with the text space); it gives no equations. Every equation here is our own design.

Legend: B batch, M history (the decision step included), V cameras, P pooled vectors (V cameras, instruction, state),
N tokens, d backbone width, w inner width, D state dim, K factors, E factor dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sigma.policy.sizes import TelepathySizes


@dataclass(frozen=True)
class Carry:
    """What the past leaves for the present decision."""

    memory: Tensor  # (B, w) m'_{t-1}
    intent: Tensor  # (B, w) z'_{t-1}
    present: Tensor  # (B, 1) 1 where there is a past, 0 at an episode's first decision


@dataclass(frozen=True)
class Thought:
    """The telepathy path's state at one decision."""

    memory: Tensor  # (B, w) m_t
    intent: Tensor  # (B, w) z_t
    factors: Tensor  # (B, K, E) τ
    semantic: Tensor  # (B, d) g, in the space of the backbone's text embeddings
    intent_view: Tensor  # (B, K, E) the intent's own prediction of τ's direction, for intent–telepathy alignment


class PooledEncoder(nn.Module):
    """x = W · concat_p LayerNorm(u_p): pooled backbone features (B, P, d) to one vector (B, w)."""

    def __init__(self, pools: int, width: int, inner: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(pools * width, inner)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.project(self.norm(pooled.float()).flatten(1))


class StateEncoder(nn.Module):
    """An MLP from the normalised state (B, D) to ``N_s`` tokens (B, N_s, d) at the scale of the text embeddings.

    ``token_rms`` is the root mean square of the frozen base's text embeddings: tokens of another size would be noise
    to the backbone.
    """

    def __init__(self, sizes: TelepathySizes, token_rms: float):
        super().__init__()
        self.tokens, self.width = sizes.state_tokens, sizes.width
        self.mlp = nn.Sequential(
            nn.Linear(sizes.state_dim, sizes.inner),
            nn.GELU(),
            nn.Linear(sizes.inner, sizes.state_tokens * sizes.width),
        )
        self.norm = nn.LayerNorm(sizes.width, elementwise_affine=False)
        self.register_buffer("token_rms", torch.tensor(float(token_rms)))

    def forward(self, state: Tensor) -> Tensor:
        tokens = self.mlp(state).unflatten(-1, (self.tokens, self.width))
        return self.norm(tokens) * self.token_rms


class FiLM(nn.Module):
    """(γ, β) = W_f (exp(θ_τ) ⊙ τ_prev); v' = (1 + γ) ⊙ v + β. W_f starts at zero, so that v' = v."""

    def __init__(self, factors: int, factor_dim: int, width: int):
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(factors, 1))
        self.modulation = nn.Linear(factors * factor_dim, 2 * width, bias=False)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, vision: Tensor, factors: Tensor) -> Tensor:
        """Modulate vision tokens (B, V, n, d) by the factors of the last decision (B, K, E)."""
        modulation = self.modulation((self.log_gain.exp() * factors).flatten(1)).to(vision.dtype)
        gamma, beta = modulation[:, None, None, :].chunk(2, dim=-1)
        return (1 + gamma) * vision + beta


class TelepathyPath(nn.Module):
    """Memory m, intent z, factors τ and semantic factors g.

    With x the encoded pooled features of a decision and e its instruction's mean frozen embedding::

        m_k = GRU_m(x_k, m_{k-1})          z_k = GRU_z(W [m_k; e], z_{k-1})
        τ   = F([m; z]) ∈ R^{K×E}          g   = W_g m

    Over the past, x comes from the frozen base's features (cached by `baseline`, a queue at run time); at the decision
    itself it comes from the adapted pass. The past is a window of M−1 decisions, so that the streaming and the batched
    form are the same computation. With ``sizes.factor_source == "constant"`` τ is one learned constant; with
    ``sizes.memory == "reset"`` the past is not read, but that there is one still counts: FiLM then gets the factors of
    the empty memory, so that what is missing is memory alone.
    """

    def __init__(self, sizes: TelepathySizes):
        super().__init__()
        self.sizes = sizes
        inner, flat = sizes.inner, sizes.factors * sizes.factor_dim
        self.past_encoder = PooledEncoder(sizes.pools, sizes.width, inner)
        self.now_encoder = PooledEncoder(sizes.pools, sizes.width, inner)
        self.text_norm = nn.LayerNorm(sizes.width)
        self.memory_cell = nn.GRUCell(inner, inner)
        self.intent_input = nn.Linear(inner + sizes.width, inner)
        self.intent_cell = nn.GRUCell(inner, inner)
        self.factor_network = nn.Sequential(nn.Linear(2 * inner, 2 * inner), nn.GELU(), nn.Linear(2 * inner, flat))
        self.semantic_head = nn.Linear(inner, sizes.width)
        self.intent_view = nn.Linear(inner, flat)
        if sizes.factor_source == "constant":
            self.constant_factors = nn.Parameter(torch.randn(sizes.factors, sizes.factor_dim))

    def _step(self, encoded: Tensor, text: Tensor, memory: Tensor, intent: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.memory_cell(encoded, memory)
        intent = self.intent_cell(self.intent_input(torch.cat([memory, text], dim=-1)), intent)
        return memory, intent

    def carry(self, history: Tensor, present: Tensor, text: Tensor) -> Carry:
        """Run the recurrence over the past.

        Args:
            history: (B, M−1, P, d) pooled frozen features of the earlier decisions, oldest first.
            present: (B, M−1) bool, False before the episode began.
            text: (B, d) mean frozen embedding of the instruction.
        """
        text = self.text_norm(text.float())
        memory = text.new_zeros(len(text), self.sizes.inner)
        intent = torch.zeros_like(memory)
        if self.sizes.memory == "carried":
            for index in range(history.shape[1]):
                here = present[:, index, None]
                new_memory, new_intent = self._step(self.past_encoder(history[:, index]), text, memory, intent)
                memory, intent = torch.where(here, new_memory, memory), torch.where(here, new_intent, intent)
        return Carry(memory, intent, present.any(dim=1, keepdim=True).to(text.dtype))

    def factors(self, memory: Tensor, intent: Tensor) -> Tensor:
        """τ ∈ (B, K, E) from memory and intent (B, w)."""
        if self.sizes.factor_source == "constant":
            return self.constant_factors.expand(len(memory), -1, -1)
        flat = self.factor_network(torch.cat([memory, intent], dim=-1))
        return flat.unflatten(-1, (self.sizes.factors, self.sizes.factor_dim))

    def previous_factors(self, carry: Carry) -> Tensor:
        """τ_prev ∈ (B, K, E) for FiLM: the factors of the carried state, zero at an episode's start."""
        return self.factors(carry.memory, carry.intent) * carry.present[:, :, None]

    def think(self, carry: Carry, pooled: Tensor, text: Tensor) -> Thought:
        """Update the carried state with the pooled adapted features (B, P, d) of the decision itself."""
        memory, intent = self._step(self.now_encoder(pooled), self.text_norm(text.float()), carry.memory, carry.intent)
        view = self.intent_view(intent).unflatten(-1, (self.sizes.factors, self.sizes.factor_dim))
        return Thought(memory, intent, self.factors(memory, intent), self.semantic_head(memory), view)
