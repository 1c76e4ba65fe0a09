"""Residual heads: corrections of the base action at three scales, driven by the telepathy factors.

The source's card names three branches (vector, chunk, trajectory) with residuals driven by telepathy factors; the
network below is our own design. The residual MLP that Sigma is compared with is the same network without factors.

Legend: B batch, N tokens, P pooled vectors (V cameras, instruction, state), L layers read, d backbone width, w inner
width, h hidden width, D state dim, A action dim, T horizon, C chunk, K factors, E factor dim.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn

from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.model.telepathy import normalise_factors
from sigma.shared.errors import SigmaError

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
    """r = W_s · MLP([pool(mix(features)); state; base action; N(τ)]), one last layer a scale s, all of them zero at the
    start: untrained, every residual is zero.

    Tokens are pooled as everywhere, a mean a camera, one over the instruction's and one over the state's tokens: heads
    that attend to single tokens fitted fifty demonstrations by heart. No gradient flows into the base action.

    With ``sizes.read_base_action`` False this is a direct regressor, for comparison: what the last layers say is the
    action itself, and the residual is what leads there from a base action that the network has not seen.
    """

    def __init__(self, sizes: TelepathySizes, hidden: int, *, read_factors: bool = True):
        super().__init__()
        self.sizes, self.read_factors = sizes, read_factors
        self.mix = LayerMix(len(sizes.read_layers), sizes.width, sizes.inner)
        self.trunk = nn.Sequential(
            nn.Linear(self._inputs(), hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden)
        )
        self.out = nn.ModuleDict(
            {scale: nn.Linear(hidden, steps * sizes.action_dim) for scale, steps in spans(sizes).items()}
        )
        for head in self.out.values():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def _inputs(self) -> int:
        sizes = self.sizes
        count = sizes.pools * sizes.inner + sizes.state_dim
        if sizes.read_base_action:
            count += sizes.horizon * sizes.action_dim
        return count + sizes.factors * sizes.factor_dim * self.read_factors

    def forward(
        self,
        features: list[Tensor],
        pool: Callable[[Tensor], Tensor],
        state: Tensor,
        base_action: Tensor,
        factors: Tensor | None = None,
    ) -> Residuals:
        """Predict the residuals.

        Args:
            features: for each layer read, (B, N, d).
            pool: (B, N, w) to (B, P, w).
            state: (B, D) normalised.
            base_action: (B, T, A) normalised, deterministic.
            factors: (B, K, E) τ, where they are read.
        """
        base = base_action.detach().float()
        inputs = [pool(self.mix(features)).flatten(1), state]
        if self.sizes.read_base_action:
            inputs.append(base.flatten(1))
        if self.read_factors:
            inputs.append(normalise_factors(factors).flatten(1))
        hidden = self.trunk(torch.cat(inputs, dim=1))
        parts = {scale: self.out[scale](hidden).unflatten(1, (-1, self.sizes.action_dim)) for scale in SCALES}
        if not self.sizes.read_base_action:
            parts = {scale: action - base[:, : action.shape[1]] for scale, action in parts.items()}
        return Residuals(**parts)


def matching_width(sizes: TelepathySizes, wanted: int) -> int:
    """The hidden width h at which heads without factors have about ``wanted`` parameters: h² + b·h + c, solved for h.

    Raises :class:`SigmaError` where the nearest h misses by more than 2 %: the comparison would not be one of equals.
    """
    with torch.device("meta"):
        heads = {h: ResidualHeads(sizes, h, read_factors=False) for h in (1, 2)}
    count = {h: sum(parameter.numel() for parameter in one.parameters()) for h, one in heads.items()}
    linear = count[2] - count[1] - 3
    constant = count[1] - 1 - linear
    root = (isqrt(linear**2 + 4 * max(wanted - constant, 0)) - linear) // 2
    width = min((max(root, 1), root + 1), key=lambda h: abs(h * h + linear * h + constant - wanted))
    found = width * width + linear * width + constant
    if abs(found - wanted) > 0.02 * wanted:
        raise SigmaError(
            f"params.yaml: telepathy: a residual MLP has {found:,} parameters where the telepathy heads of these sizes "
            f"have {wanted:,}; legal: sizes at which they agree within 2 %"
        )
    return width


def executed_plan(residuals: Residuals) -> Tensor:
    """(B, T, A): step 0 takes the vector residual, steps 1..C−1 the chunk's, the rest the trajectory's."""
    chunk = residuals.chunk.shape[1]
    return torch.cat([residuals.vector, residuals.chunk[:, 1:], residuals.trajectory[:, chunk:]], dim=1)
