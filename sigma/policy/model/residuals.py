"""Residual heads: corrections of the base action on three spans, driven by the telepathy factors.

The source's card names three branches (vector, chunk, trajectory) with residuals driven by telepathy factors; the
network below is our own design. The residual MLP that Sigma is compared with is the same network without factors.

Legend: B batch, N tokens, P pooled vectors (V cameras, instruction, state), L layers read, d backbone width, w inner
width, h hidden width, D state dim, A action dim, T horizon, C chunk, K factors, E factor dim.
"""

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.model.telepathy import normalise_factors
from sigma.shared.errors import SigmaError
from sigma.shared.spans import span_steps, split


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
        parts = zip(weights, self.norms, features, strict=True)
        return self.project(sum(weight * norm(feature.float()) for weight, norm, feature in parts))


class ResidualHeads(nn.Module):
    """r_s = W_s · MLP([pool(mix(features)); state; base action; N(τ)]), with one last layer W_s for each span s.

    The last layers start at zero, so that an untrained Sigma is the base itself. Tokens are pooled as elsewhere (one
    mean for each camera, one over the instruction's and one over the state's tokens), because heads that attended to
    single tokens memorised fifty demonstrations. No gradient flows into the base action.

    With ``sizes.read_base_action`` False this is a direct regressor, for comparison: the last layers predict the action
    itself, and the residual is its difference from a base action that the network has not read.
    """

    def __init__(self, sizes: TelepathySizes, hidden: int, *, read_factors: bool = True):
        super().__init__()
        self.sizes, self.read_factors = sizes, read_factors
        self.mix = LayerMix(len(sizes.read_layers), sizes.width, sizes.inner)
        inputs = sizes.pools * sizes.inner + sizes.state_dim + sizes.factors * sizes.factor_dim * read_factors
        inputs += sizes.horizon * sizes.action_dim * sizes.read_base_action
        self.trunk = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden)
        )
        steps = span_steps(sizes.chunk, sizes.horizon)
        heads = {span: nn.Linear(hidden, count * sizes.action_dim) for span, count in steps.items()}
        for head in heads.values():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.out = nn.ModuleDict(heads)

    def forward(
        self,
        features: list[Tensor],
        pool: Callable[[Tensor], Tensor],
        state: Tensor,
        base_action: Tensor,
        factors: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Predict the residuals (B, n, A) of each span, in normalised action units.

        Args:
            features: for each layer read, (B, N, d).
            pool: (B, N, w) to (B, P, w).
            state: (B, D) normalised.
            base_action: (B, T, A) normalised, deterministic.
            factors: (B, K, E) τ; None for heads without factors, which ignore them.

        Raises:
            ValueError: heads that read factors are given none.
        """
        base = base_action.detach().float()
        inputs = [pool(self.mix(features)).flatten(1), state]
        if self.sizes.read_base_action:
            inputs.append(base.flatten(1))
        if self.read_factors:
            if factors is None:
                raise ValueError("these residual heads read telepathy factors, and none were given")
            inputs.append(normalise_factors(factors).flatten(1))
        hidden = self.trunk(torch.cat(inputs, dim=1))
        predicted = {span: head(hidden).unflatten(1, (-1, self.sizes.action_dim)) for span, head in self.out.items()}
        if self.sizes.read_base_action:
            return predicted
        return {span: predicted[span] - steps for span, steps in split(base, self.sizes.chunk).items()}


def parameter_count(module: nn.Module) -> int:
    """How many numbers its parameters hold."""
    return sum(parameter.numel() for parameter in module.parameters())


def matching_width(sizes: TelepathySizes, wanted: int) -> int:
    """The hidden width at which heads without factors have about ``wanted`` parameters.

    Raises :class:`SigmaError` where the nearest one misses by more than 2 %: the comparison would not be one of equals.
    """

    def count(hidden: int) -> int:
        with torch.device("meta"):
            return parameter_count(ResidualHeads(sizes, hidden, read_factors=False))

    above = bisect_left(range(2**20), wanted, lo=1, key=count)
    width = min(max(above - 1, 1), above, key=lambda hidden: abs(count(hidden) - wanted))
    nearest = count(width)
    if abs(nearest - wanted) > 0.02 * wanted:
        raise SigmaError(
            f"params.yaml: telepathy: a residual MLP has {nearest:,} parameters where the telepathy heads of these "
            f"sizes have {wanted:,}; legal: sizes at which they agree within 2 %"
        )
    return width
