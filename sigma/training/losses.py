"""What Sigma is trained by: regression of residuals on three spans, TRAF, TSAC and control of the factors' norm.

The source's card names L_act_vec, L_act_chk, L_act_trj, Telepathic Residual Action Focusing (TRAF: hard samples by
top-k error), the Telepathic Semantic Alignment Curriculum (TSAC: growing alignment weights) and control of tau_l2; it
gives no formula. The formulas here are our own design.

Legend: B batch, W training windows, T horizon, A action dim, K factors, E factor dim, d backbone width, J bank texts.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sigma.policy.model.telepathy import TelepathyState


def residual_errors(
    residuals: Mapping[str, Tensor], target: Tensor, valid: Tensor, joints: Tensor
) -> dict[str, Tensor]:
    """Mean squared error of each window (B,), by span, of the residuals against r* = a* − a_base, over valid steps and scored joints.

    Args:
        residuals: predictions (B, n, A) by span.
        target: (B, T, A) residual target.
        valid: (B, T) bool, False at padded steps.
        joints: (A,) bool, False at joints that are excluded by name.
    """
    errors = {}
    for span, predicted in residuals.items():
        steps = predicted.shape[1]
        weight = (valid[:, :steps, None] & joints).to(predicted.dtype)
        squared = (predicted - target[:, :steps]).square() * weight
        errors[span] = squared.sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)
    return errors


def plan_error(plan: Tensor, action: Tensor, valid: Tensor, joints: Tensor) -> Tensor:
    """mse_plan of each window (B,): squared error of an executed plan (B, T, A) over valid steps and scored joints."""
    error = (plan - action).square()
    weight = (valid[..., None] & joints).to(error.dtype)
    return (error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)


class HardWindows:
    """TRAF: a persistent error of every training window, and the weights that follow from it.

    The table is an exponential moving average of each window's residual error. A window is hard where its error lies
    above the (1 − top_k) quantile of the table; hard windows share ``focus`` of the whole weight, the others the rest,
    so that weights have mean 1. Weights are read before and errors are written after an optimizer step: the split into
    micro-batches cannot change them. Until every window has been seen, all weights are 1.
    """

    def __init__(self, windows: int, top_k: float, focus: float, decay: float):
        self.top_k, self.focus, self.decay = top_k, focus, decay
        self.errors = np.full(windows, np.nan)

    @property
    def known(self) -> bool:
        """Whether every window has been seen."""
        return not np.isnan(self.errors).any()

    def hard(self) -> np.ndarray:
        """(W,) bool; nothing is hard until the whole table is known or where TRAF is off (top_k = 0)."""
        if self.top_k == 0 or not self.known:
            return np.zeros(len(self.errors), dtype=bool)
        return self.errors > np.quantile(self.errors, 1 - self.top_k)

    def weights(self) -> np.ndarray:
        """(W,) float, mean 1."""
        hard = self.hard()
        share = hard.mean()
        if share in (0, 1):
            return np.ones(len(hard))
        return np.where(hard, self.focus / share, (1 - self.focus) / (1 - share))

    def update(self, rows: np.ndarray, errors: np.ndarray) -> None:
        """Blend new errors of ``rows`` into the table; a row that comes twice counts with its mean."""
        unique, inverse = np.unique(rows, return_inverse=True)
        fresh = np.bincount(inverse, weights=errors) / np.bincount(inverse)
        old = self.errors[unique]
        self.errors[unique] = np.where(np.isnan(old), fresh, self.decay * old + (1 - self.decay) * fresh)


def curriculum(progress: float, start: float, end: float) -> float:
    """TSAC's ramp: 0 before ``start``, 1 after ``end`` (shares of training), half a cosine between."""
    if progress >= end:
        return 1.0
    if progress <= start:
        return 0.0
    return 0.5 - 0.5 * math.cos(math.pi * (progress - start) / (end - start))


def memory_text_loss(semantic: Tensor, text: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """Contrast of the semantic factors with other instructions, a mean over B.

    −log softmax of cos(g, e)/temperature at the window's own instruction among itself and the bank. With a single
    text a plain cosine would be constant over the data and say nothing; the bank gives it something to tell apart.

    Args:
        semantic: g, (B, d).
        text: (B, d) mean frozen embedding of each window's instruction.
        bank: (J, d) of other instructions; entries equal to a window's own text are left out of its contrast.
    """
    g, own, others = (functional.normalize(part.float(), dim=-1) for part in (semantic, text, bank))
    positive = (g * own).sum(-1, keepdim=True)
    same = own @ others.T > 1 - 1e-5
    negative = (g @ others.T).masked_fill(same, -math.inf)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def intent_telepathy_loss(intent_view: Tensor, factors: Tensor) -> Tensor:
    """1 − cos(view(z), stop(τ)), a mean over B.

    The gradient stops at the factors: the intent learns to carry what they express, and the factors, which the action
    regression shapes, cannot collapse onto the intent.
    """
    return (1 - torch.cosine_similarity(intent_view.flatten(1), factors.detach().flatten(1), dim=-1)).mean()


def tau_norm_loss(factors: Tensor, norm: float, band: float) -> Tensor:
    """Squared relative excess of ‖τ‖₂ (over K×E) outside ``norm`` · (1 ± ``band``), a mean over B."""
    relative = (factors.flatten(1).norm(dim=-1) / norm - 1).abs()
    return (relative - band).clamp_min(0).square().mean()


def regularisers(
    telepathy: TelepathyState,
    text: Tensor,
    bank: Tensor,
    *,
    ramp: float,
    memory_text: float,
    intent_telepathy: float,
    temperature: float,
    tau: float,
    tau_norm: float,
    tau_band: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of TSAC's two alignments (times the curriculum's ``ramp``) and of the norm control."""
    parts = {
        "memory_text": memory_text_loss(telepathy.semantic, text, bank, temperature),
        "intent_telepathy": intent_telepathy_loss(telepathy.intent_view, telepathy.factors),
        "tau": tau_norm_loss(telepathy.factors, tau_norm, tau_band),
    }
    total = ramp * (memory_text * parts["memory_text"] + intent_telepathy * parts["intent_telepathy"])
    total = total + tau * parts["tau"]
    return total, parts
