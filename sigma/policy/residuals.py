"""Residual heads: corrections of the base action at three scales, driven by the telepathy factors.

The source's card names three branches (vector, chunk, trajectory) with residuals driven by telepathy factors; the
decoder below is our own design.

Legend: B batch, N tokens, L layers read, d backbone width, w inner width, A action dim, T horizon, C chunk,
K factors, E factor dim, Q = 1 + C + T queries.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sigma.policy.sizes import TelepathySizes

SCALES = ("vector", "chunk", "trajectory")


@dataclass(frozen=True)
class Residuals:
    """Corrections in normalised action units."""

    vector: Tensor  # (B, 1, A)
    chunk: Tensor  # (B, C, A)
    trajectory: Tensor  # (B, T, A)


def spans(sizes: TelepathySizes) -> dict[str, int]:
    """Steps that each branch covers, counted from the decision step."""
    return {"vector": 1, "chunk": sizes.chunk, "trajectory": sizes.horizon}


class LayerMix(nn.Module):
    """h = W · Σ_l softmax(a)_l LayerNorm_l(h_l): a learned mix of backbone layers, brought to width w.

    Layers below the last are read too because flow matching sends no gradient into the last layer's own projections.
    """

    def __init__(self, layers: int, width: int, inner: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.project = nn.Linear(width, inner)

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B, N, d) of each layer to (B, N, w)."""
        weights = self.logits.softmax(0)
        mixed = sum(
            weight * norm(feature.float()) for weight, norm, feature in zip(weights, self.norms, features, strict=True)
        )
        return self.project(mixed)


class ResidualHeads(nn.Module):
    """A pre-norm transformer decoder whose queries are the steps of the three branches.

    A query is the sum of its learned place, its base action (no gradient flows into it), the state and the flattened
    factors; it attends to the mixed backbone features and to the K factors as tokens. Queries of one branch see each
    other, never those of another branch, so that the branches are three heads on one trunk. The last layers start at
    zero: at initialisation every residual is zero and Sigma is the base.

    With ``sizes.read_base_action`` False this is a direct regressor, for comparison: what the last layers say is the
    action itself, and the residual is what leads there from a base action that the decoder has not seen.
    """

    def __init__(self, sizes: TelepathySizes):
        super().__init__()
        self.sizes = sizes
        lengths = list(spans(sizes).values())
        inner = sizes.inner
        self.mix = LayerMix(len(sizes.read_layers), sizes.width, inner)
        self.place = nn.Parameter(torch.randn(sum(lengths), inner) * 0.02)
        self.base_in = nn.Linear(sizes.action_dim, inner) if sizes.read_base_action else None
        self.state_in = nn.Linear(sizes.state_dim, inner)
        self.factors_in = nn.Linear(sizes.factors * sizes.factor_dim, inner)
        self.factor_tokens = nn.Linear(sizes.factor_dim, inner)
        layer = nn.TransformerDecoderLayer(
            inner, sizes.head_heads, 4 * inner, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, sizes.head_layers, norm=nn.LayerNorm(inner))
        self.out = nn.ModuleDict({scale: nn.Linear(inner, sizes.action_dim) for scale in SCALES})
        for head in self.out.values():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        branch = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths), output_size=sum(lengths))
        self.register_buffer("other_branch", branch[:, None] != branch[None, :], persistent=False)

    def forward(
        self, features: list[Tensor], token_mask: Tensor, factors: Tensor, state: Tensor, base_action: Tensor
    ) -> Residuals:
        """Predict the residuals.

        Args:
            features: for each layer read, (B, N, d).
            token_mask: (B, N) bool, True at real tokens.
            factors: (B, K, E).
            state: (B, D) normalised.
            base_action: (B, T, A) normalised, deterministic.
        """
        lengths = list(spans(self.sizes).values())
        context = torch.cat([self.mix(features), self.factor_tokens(factors)], dim=1)
        padding = torch.cat([~token_mask, token_mask.new_zeros(factors.shape[:2])], dim=1)
        queries = self.place + (self.state_in(state) + self.factors_in(factors.flatten(1)))[:, None]
        base = base_action.detach().float()
        if self.base_in is not None:
            queries = queries + self.base_in(torch.cat([base[:, :length] for length in lengths], dim=1))
        hidden = self.decoder(queries, context, tgt_mask=self.other_branch, memory_key_padding_mask=padding)
        parts = {scale: self.out[scale](part) for scale, part in zip(SCALES, hidden.split(lengths, dim=1), strict=True)}
        if self.base_in is None:
            parts = {scale: action - base[:, : action.shape[1]] for scale, action in parts.items()}
        return Residuals(**parts)


def executed_plan(residuals: Residuals) -> Tensor:
    """(B, T, A): step 0 takes the vector residual, steps 1..C−1 the chunk's, the rest the trajectory's."""
    chunk = residuals.chunk.shape[1]
    return torch.cat([residuals.vector, residuals.chunk[:, 1:], residuals.trajectory[:, chunk:]], dim=1)
