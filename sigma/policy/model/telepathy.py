"""The telepathy path: semantic memory and intent over the whole episode, and the telepathy factors of a decision.

The source's card names these parts (semantic memory m_t, intent z_intent, telepathy factors, semantic factors aligned
with the text space); it gives no equations. Every equation here is our own design. How the factors act on the base
stands in :mod:`sigma.policy.model.heads`.

Legend: B batch, E episodes, R reads of memory, V cameras, P pooled vectors of a pass (V cameras, instruction, state),
d backbone width, w inner width, D state dim, S control steps of the trace, K factors, F factor dim.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.pi05.observation import Observation, Past, pool_views

# Standardised features are clipped there: one that training never saw must not flood the memory.
_CLIP = 5.0


@dataclass(frozen=True)
class Memory:
    """What is carried from decision to decision of B episodes; its size never grows."""

    memory: Tensor  # (B, w) m
    intent: Tensor  # (B, w) z
    views: Tensor  # (B, 2V, d) pooled image tokens of the last read, what the next one is compared with

    def rows(self, chosen: Tensor) -> "Memory":
        """The memory of some of the episodes."""
        return Memory(self.memory[chosen], self.intent[chosen], self.views[chosen])


@dataclass(frozen=True)
class TelepathyState:
    """The telepathy path's state at B decisions, known before the adapted pass."""

    memory: Tensor  # (B, w) m
    intent: Tensor  # (B, w) z
    factors: Tensor  # (B, K, F) τ
    semantic: Tensor  # (B, d) g, in the space of the backbone's text embeddings
    intent_view: Tensor  # (B, K, F) the intent's own prediction of τ's direction, for intent–telepathy alignment
    alignment: Tensor  # (B,) cos(g, mean frozen embedding of the instruction)


class StandardisedInput(nn.Module):
    """W · clip((x − centre) / spread): features (..., *shape) to one vector (..., w).

    ``centre`` and ``spread`` are those of the train windows. In raw units a few large numbers that never change would
    hide the small ones that tell two scenes apart.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...], inner: int):
        super().__init__()
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))
        self.project = nn.Linear(prod(shape), inner)

    def measure(self, samples: Tensor) -> None:
        """Take centre and spread from samples (n, *shape); what hardly varies is not blown up."""
        samples = samples.double()
        spread = samples.std(0, correction=0)
        self.centre.copy_(samples.mean(0))
        self.spread.copy_(spread.clamp_min(0.1 * spread.square().mean().sqrt()).clamp_min(1e-6))

    def standardise(self, features: Tensor) -> Tensor:
        """Features (..., *shape) as flat vectors (..., n), at most :data:`_CLIP` from their centre."""
        standard = ((features.float() - self.centre) / self.spread).clamp(-_CLIP, _CLIP)
        return standard.flatten(-self.centre.ndim)

    def forward(self, features: Tensor) -> Tensor:
        return self.project(self.standardise(features))


def normalise_factors(factors: Tensor) -> Tensor:
    """Layer-norm the factors (B, K, F) over all K·F numbers of a decision, so that only their direction is passed on.

    Their norm is left to the loss, which controls it, and to the adapter, which reads an unusual norm as risk.
    """
    return functional.layer_norm(factors, factors.shape[1:])


def _remember_long(cell: nn.GRU, longest: int = 64) -> None:
    """Spread the time constants of a GRU over 1 to ``longest`` reads (chrono initialisation, Tallec and Ollivier 2018).

    With PyTorch's own initial biases half of the memory is gone after one read, and no gradient comes from the first
    second of an episode.
    """
    width = cell.hidden_size
    bias, other = cell.get_parameter("bias_hh_l0"), cell.get_parameter("bias_ih_l0")
    with torch.no_grad():
        bias.zero_()
        other.zero_()
        # PyTorch's gates are (reset, update, new); an update gate near 1 keeps the state.
        bias[width : 2 * width] = torch.empty(width).uniform_(1, longest - 1).log()


class TelepathyPath(nn.Module):
    """Memory m, intent z, factors τ and semantic factors g.

    Memory reads the frozen vision tower's pooled tokens u and the joint state s every ``memory_stride`` control steps
    from the episode's first one on, and e is the mean frozen embedding of the instruction::

        m_k = GRU_m(E_u u_k + E_c (u_k − u_{k−1}) + E_s s_k, m_{k−1})          m_0 = W_m N(e)
        z_k = GRU_z(W_z [m_k; N(e)], z_{k−1})                                  z_0 = W_i N(e)

    What changed between two reads is told beside what is there: in one picture an event is a small part of the scene,
    and training would sooner learn the scenes by heart than find it.

    At a decision the reads before it are known, and of the present what is known before the adapted pass: the vision
    tower's tokens, or the frozen base's pass as ``sizes.present`` says, the state, and the motion that led to it::

        p = GELU(E_v v + E_p s + E_t motion)             τ = F([m; z; p]) ∈ R^{K×F}          g = W_g m

    Nothing here depends on LoRA, so τ and g are the same numbers whether LoRA and FiLM are on or off. The state has a
    constant size; one read at a time (:meth:`read`) and a whole episode at once (:meth:`recall`) are one computation.
    """

    def __init__(self, sizes: TelepathySizes):
        super().__init__()
        self.sizes = sizes
        inner, flat = sizes.inner, sizes.factors * sizes.factor_dim
        self.text_norm = nn.LayerNorm(sizes.width, elementwise_affine=False)
        self.views = StandardisedInput((2 * sizes.views, sizes.width), inner)
        self.changes = StandardisedInput((2 * sizes.views, sizes.width), inner)
        self.state = nn.Linear(sizes.state_dim, inner)
        self.memory_start = nn.Linear(sizes.width, inner)
        self.memory_cell = nn.GRU(inner, inner, batch_first=True)
        self.intent_start = nn.Linear(sizes.width, inner)
        self.intent_input = nn.Linear(inner + sizes.width, inner)
        self.intent_cell = nn.GRU(inner, inner, batch_first=True)
        for cell in (self.memory_cell, self.intent_cell):
            _remember_long(cell)
        shapes = {"vision": (2 * sizes.views, sizes.width), "backbone": (sizes.pools, sizes.width), "motion": None}
        shape = shapes[sizes.present]
        self.present = StandardisedInput(shape, inner) if shape else None
        self.present_state = nn.Linear(sizes.state_dim, inner)
        self.motion = StandardisedInput((sizes.trace, sizes.state_dim), inner) if sizes.trace else None
        self.factor_network = nn.Sequential(nn.Linear(3 * inner, 2 * inner), nn.GELU(), nn.Linear(2 * inner, flat))
        self.beginning = nn.Linear(inner, 2 * sizes.views * sizes.width)
        self.semantic_head = nn.Linear(inner, sizes.width)
        self.intent_view = nn.Linear(inner, flat)
        if sizes.factor_source == "constant":
            self.constant_factors = nn.Parameter(torch.randn(sizes.factors, sizes.factor_dim))

    def start(self, text: Tensor) -> Memory:
        """Memory and intent before the first read, from the instructions' embeddings (B, d)."""
        normed = self.text_norm(text.float())
        # What the first read is compared with: an ordinary picture.
        views = self.views.centre.expand(len(text), -1, -1)
        return Memory(self.memory_start(normed).tanh(), self.intent_start(normed).tanh(), views)

    def _unroll(self, begin: Memory, views: Tensor, states: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Memory and intent (E, R, w) after each of R reads."""
        before = torch.cat([begin.views[:, None], views[:, :-1]], dim=1)
        seen = self.views(views) + self.changes(views - before) + self.state(states.float())
        memory, _ = self.memory_cell(seen, begin.memory[None].contiguous())
        heard = self.intent_input(torch.cat([memory, self.text_norm(text.float())], dim=-1))
        intent, _ = self.intent_cell(heard, begin.intent[None].contiguous())
        return memory, intent

    def read(self, carried: Memory, observation: Observation) -> Memory:
        """Memory and intent of B episodes after they have read these decisions."""
        if self.sizes.memory == "cleared":
            return self.start(observation.text)
        views = pool_views(observation.vision)
        memory, intent = self._unroll(carried, views[:, None], observation.state[:, None], observation.text[:, None])
        return Memory(memory[:, 0], intent[:, 0], views)

    def recall(self, past: Past, text: Tensor) -> Memory:
        """Memory and intent of B decisions, by one unroll over each episode of ``past``; ``text`` (B, d)."""
        if self.sizes.memory == "cleared" or past.views.shape[1] == 0:
            return self.start(text)
        begin = self.start(past.text[:, 0])
        after = self._unroll(begin, past.views, past.states, past.text)
        memory, intent, views = (
            torch.cat([first[:, None], rest], dim=1)[past.episode, past.reads]
            for first, rest in zip(vars(begin).values(), (*after, past.views), strict=True)
        )
        return Memory(memory, intent, views)

    def forgetting(self, memory: Tensor, past: Past) -> Tensor:
        """(B,) how far m (B, w) is from telling what the episode's first read showed; 0 where nothing was read.

        Mean squared error of a linear map to the first read's standardised views: training alone would rather learn
        fifty scenes by heart than keep for seconds what only some decisions need.
        """
        if self.sizes.memory == "cleared" or past.views.shape[1] == 0:
            return memory.new_zeros(len(memory))
        first = self.views.standardise(past.views[:, 0])[past.episode]
        return (past.reads > 0) * (self.beginning(memory) - first).square().mean(-1)

    def forward(self, observation: Observation, carried: Memory) -> TelepathyState:
        """Factors, semantic factors and alignment of B decisions.

        Raises:
            ValueError: the motion is not of ``sizes.trace`` steps, or the frozen base's pass, which
                ``sizes.present == "backbone"`` reads, was not made.
        """
        memory, intent = carried.memory, carried.intent
        view = self.intent_view(intent).unflatten(-1, (self.sizes.factors, self.sizes.factor_dim))
        semantic = self.semantic_head(memory)
        alignment = torch.cosine_similarity(semantic, observation.text.float(), dim=-1)
        return TelepathyState(memory, intent, self._factors(observation, carried), semantic, view, alignment)

    def _factors(self, observation: Observation, carried: Memory) -> Tensor:
        if self.sizes.factor_source == "constant":
            return self.constant_factors.expand(len(observation.state), -1, -1)
        present = self.present_state(observation.state.float())
        if self.present is not None:
            present = present + self.present(present_features(observation, self.sizes.present))
        if self.motion is not None:
            if observation.motion.shape[1] != self.sizes.trace:
                found = f"the motion has {observation.motion.shape[1]} control steps"
                raise ValueError(f"{found}; the model reads {self.sizes.trace}")
            present = present + self.motion(observation.motion)
        flat = self.factor_network(torch.cat([carried.memory, carried.intent, functional.gelu(present)], dim=-1))
        return flat.unflatten(-1, (self.sizes.factors, self.sizes.factor_dim))


def present_features(observation: Observation, present: str) -> Tensor:
    """What the factors read of the present picture: (B, 2V, d) for ``vision``, (B, P, d) for ``backbone``."""
    if present == "vision":
        return pool_views(observation.vision)
    if observation.pooled is None:
        raise ValueError("the frozen base's pass over the present comes first: Observation.with_frozen_features")
    return observation.pooled
