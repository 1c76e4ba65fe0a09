"""A residual MLP: what the telepathy heads are compared with. Own design.

It reads what they read of the present, namely the same learned mix of backbone layers, the normalised state and the
base action, and has as many parameters; it has no memory, no factors, no FiLM, no state tokens and no attention.

Legend: B batch, N prefix tokens, P pooled vectors (V cameras, instruction, state), d backbone width, w inner width,
h hidden width, D state dim, A action dim, T horizon, C chunk.
"""

from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor, nn

from sigma.errors import SigmaError
from sigma.policy.residuals import SCALES, LayerMix, Residuals, spans
from sigma.policy.sizes import TelepathySizes


class ResidualMLP(nn.Module):
    """r = W · MLP([pool(mix(features)); state; base action]), one last layer a scale, all of them zero at the start.

    Tokens are pooled as everywhere: a mean a camera, one over the instruction's and one over the state's tokens.
    """

    def __init__(self, sizes: TelepathySizes, hidden: int):
        super().__init__()
        self.sizes = sizes
        self.mix = LayerMix(len(sizes.read_layers), sizes.width, sizes.inner)
        self.trunk = nn.Sequential(
            nn.Linear(_inputs(sizes), hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden)
        )
        self.out = nn.ModuleDict(
            {scale: nn.Linear(hidden, steps * sizes.action_dim) for scale, steps in spans(sizes).items()}
        )
        for head in self.out.values():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(
        self, features: list[Tensor], pool: Callable[[Tensor], Tensor], state: Tensor, base_action: Tensor
    ) -> Residuals:
        """Predict the residuals.

        Args:
            features: for each layer read, (B, N, d).
            pool: (B, N, w) to (B, P, w).
            state: (B, D) normalised.
            base_action: (B, T, A) normalised, deterministic; no gradient flows into it.
        """
        pooled, base = pool(self.mix(features)), base_action.detach().float()
        hidden = self.trunk(torch.cat([pooled.flatten(1), state, base.flatten(1)], dim=1))
        parts = {scale: self.out[scale](hidden).unflatten(1, (-1, self.sizes.action_dim)) for scale in SCALES}
        return Residuals(**parts)


def _inputs(sizes: TelepathySizes) -> int:
    return sizes.pools * sizes.inner + sizes.state_dim + sizes.horizon * sizes.action_dim


def matching_width(sizes: TelepathySizes, wanted: int) -> int:
    """The hidden width h at which the MLP has about ``wanted`` parameters: h² + b·h + c = wanted, solved for h.

    Raises :class:`SigmaError` where the nearest h misses by more than 2 %: the comparison would not be one of equals.
    """
    with torch.device("meta"):
        count = {h: sum(one.numel() for one in ResidualMLP(sizes, h).parameters()) for h in (1, 2)}
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
