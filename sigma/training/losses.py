"""The terms of Sigma's loss beside flow matching: TRAF, TSAC and control of the factors' norm.

The source's card names L_act_vec, L_act_chk, L_act_trj, Telepathic Residual Action Focusing (TRAF: hard samples by
top-k error), the Telepathic Semantic Alignment Curriculum (TSAC: growing alignment weights) and control of tau_l2; it
gives no formula. The formulas here are our own design.

Legend: B batch, W training windows, T horizon, A action dim, K factors, E factor dim, d backbone width, J bank texts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sigma.parameters.training import LossParameters, TrafParameters
from sigma.policy.model.telepathy import TelepathyState


def plan_error(plan: Tensor, action: Tensor, valid: Tensor, joints: Tensor) -> Tensor:
    """mse_plan of each window (B,): squared error of an executed plan (B, T, A) over valid steps and scored joints.

    ``valid`` (B, T) is False at padded steps, ``joints`` (A,) at joints that are excluded by name.
    """
    error = (plan - action).square()
    weight = (valid[..., None] & joints).to(error.dtype)
    return (error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)


class NoiseLevels:
    """The mean flow-matching loss by time: a window's loss says how hard the window is only beside that of its times.

    An exponential moving average in :data:`BINS` equal bins of the time; NaN where no draw has fallen yet.
    """

    BINS = 10

    def __init__(self, decay: float):
        self.decay = decay
        self.means = np.full(self.BINS, np.nan)

    def _bins(self, time: np.ndarray) -> np.ndarray:
        return np.minimum((time * self.BINS).astype(int), self.BINS - 1)

    def relative(self, losses: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Losses (n, R) at these times (n, R), divided by the mean at the time, as a mean over the draws (n,)."""
        means = self.means[self._bins(time)]
        return np.where(np.isnan(means), 1.0, losses / np.maximum(means, 1e-12)).mean(axis=1)

    def update(self, losses: np.ndarray, time: np.ndarray) -> None:
        """Blend losses (n, R) into the means of their times."""
        bins = self._bins(time).ravel()
        seen = np.unique(bins)
        fresh = np.array([losses.ravel()[bins == number].mean() for number in seen])
        old = self.means[seen]
        self.means[seen] = np.where(np.isnan(old), fresh, self.decay * old + (1 - self.decay) * fresh)


def window_worth(intervention: np.ndarray, to_correction: np.ndarray, traf: TrafParameters) -> np.ndarray:
    """What the loss of each window counts beside a demonstration's, float64 [n]: corrections count more, the seconds
    before one count nothing.

    What a person decided in a policy's place shows the way back from where that policy goes; what led there must not be
    learned. The rest of what the policy did alone is its own action again, which holds it where it was.
    """
    autonomous = np.where(to_correction < traf.before, 0.0, traf.autonomous)
    return np.where(intervention, traf.correction, np.where(np.isnan(to_correction), 1.0, autonomous))


class HardWindows:
    """TRAF: a persistent error of every training window, and the weights that follow from it.

    The table is an exponential moving average of each window's relative loss (:class:`NoiseLevels`). A window is hard
    where its error lies above the (1 − top_k) quantile of the table; hard windows share ``focus`` of the whole weight,
    the others the rest. Weights are read before and errors are written after an optimizer step: the split into
    micro-batches cannot change them. Until every window has been seen, none is hard. On top of that each window has a
    ``worth`` (W,) of its own (:func:`window_worth`).
    """

    def __init__(self, worth: np.ndarray, top_k: float, focus: float, decay: float):
        self.worth, self.top_k, self.focus, self.decay = worth, top_k, focus, decay
        self.errors = np.full(len(worth), np.nan)

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
        share, weights = hard.mean(), self.worth
        if share not in (0, 1):
            weights = weights * np.where(hard, self.focus / share, (1 - self.focus) / (1 - share))
        return weights / weights.mean()

    def update(self, rows: np.ndarray, errors: np.ndarray) -> None:
        """Blend new errors of ``rows`` into the table; a row that comes twice counts with its mean."""
        unique, inverse = np.unique(rows, return_inverse=True)
        fresh = np.bincount(inverse, weights=errors) / np.bincount(inverse)
        old = self.errors[unique]
        self.errors[unique] = np.where(np.isnan(old), fresh, self.decay * old + (1 - self.decay) * fresh)


def curriculum(progress: float, start: float, end: float) -> float:
    """TSAC's ramp: 0 before ``start``, 1 after ``end`` (shares of training), half a cosine between."""
    if progress >= end or progress <= start:
        return float(progress >= end)
    return 0.5 - 0.5 * math.cos(math.pi * (progress - start) / (end - start))


def memory_text_loss(semantic: Tensor, text: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """Contrast of the semantic factors with other instructions, a mean over B.

    −log softmax of cos(g, e)/temperature at the window's own instruction among itself and the bank. With a single
    instruction in the data a plain cosine would have the same target everywhere; the bank gives it a contrast.

    Args:
        semantic: g, (B, d).
        text: (B, d) mean frozen embedding of each window's instruction.
        bank: (J, d) of other instructions; entries equal to a window's own text are left out of its contrast.
    """
    g, instruction, others = (functional.normalize(part.float(), dim=-1) for part in (semantic, text, bank))
    positive = (g * instruction).sum(-1, keepdim=True)
    same = instruction @ others.T > 1 - 1e-5
    negative = (g @ others.T).masked_fill(same, -math.inf)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def intent_telepathy_loss(intent_view: Tensor, factors: Tensor) -> Tensor:
    """1 − cos(view(z), stop(τ)), a mean over B.

    The gradient stops at the factors: the intent learns to predict them, and the factors, which flow matching shapes,
    cannot collapse onto the intent.
    """
    return (1 - torch.cosine_similarity(intent_view.flatten(1), factors.detach().flatten(1), dim=-1)).mean()


def tau_norm_loss(factors: Tensor, norm: float, band: float) -> Tensor:
    """Squared relative excess of ‖τ‖₂ (over K×E) outside ``norm`` · (1 ± ``band``), a mean over B."""
    relative = (factors.flatten(1).norm(dim=-1) / norm - 1).abs()
    return (relative - band).clamp_min(0).square().mean()


@dataclass(frozen=True)
class TermInputs:
    """What a term of the loss may read of a batch of decisions."""

    telepathy: TelepathyState
    forgetting: Tensor  # (B,) of :meth:`TelepathyPath.forgetting`
    text: Tensor  # (B, d) mean frozen embedding of each window's instruction
    bank: Tensor  # (J, d) of other instructions
    tau_norm: float  # the norm that the factors are held to
    loss: LossParameters


@dataclass(frozen=True)
class Term:
    """A weighted term of the loss: its value, a mean over B, and its weight in the section ``loss``."""

    value: Callable[[TermInputs], Tensor]
    weight: Callable[[LossParameters], float]


# The terms beside flow matching, by their name in the training curve. A new term is a row here and its keys in
# LossParameters and params.yaml. The curriculum ramps up the weights of the alignments (TSAC) alone.
ALIGNMENTS = {
    "memory_text": Term(
        lambda given: memory_text_loss(given.telepathy.semantic, given.text, given.bank, given.loss.tsac.temperature),
        lambda loss: loss.tsac.memory_text,
    ),
    "intent_telepathy": Term(
        lambda given: intent_telepathy_loss(given.telepathy.intent_view, given.telepathy.factors),
        lambda loss: loss.tsac.intent_telepathy,
    ),
}
CONTROLS = {
    "recall": Term(lambda given: given.forgetting.mean(), lambda loss: loss.recall),
    "tau": Term(
        lambda given: tau_norm_loss(given.telepathy.factors, given.tau_norm, given.loss.tau_band), lambda loss: loss.tau
    ),
}


def weighted_terms(inputs: TermInputs, ramp: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms, the alignments times the curriculum's ``ramp``, and each without its weight."""
    values = {name: term.value(inputs) for name, term in (ALIGNMENTS | CONTROLS).items()}
    weighted = {name: term.weight(inputs.loss) * values[name] for name, term in (ALIGNMENTS | CONTROLS).items()}
    alignments = reduce(torch.add, [weighted[name] for name in ALIGNMENTS])
    return reduce(torch.add, [weighted[name] for name in CONTROLS], ramp * alignments), values
