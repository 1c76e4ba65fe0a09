"""The two things that are trained: LoRA by flow matching, and residuals with everything that shapes them.

Legend: B batch, T horizon, Tc the base's chunk size, A action dim, R noise draws.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sigma.compute import processes
from sigma.policy.adapter.spans import ABBREVIATIONS, executed_plan
from sigma.policy.model.decision import AdaptedPass, SigmaModel
from sigma.policy.model.telepathy import TelepathyState
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.observation import BasePass, Observation
from sigma.shared.seeding import generator
from sigma.training.batches import WindowBatches
from sigma.training.flow import draw_noise_and_time
from sigma.training.flow_model import FlowModel
from sigma.training.losses import HardWindows, curriculum, plan_error, regularisers, residual_errors, tau_norm_loss
from sigma.training.sampler import WindowSampler

if TYPE_CHECKING:
    from sigma.parameters.training import LossParameters, TrainParameters


def flow_loss(
    model: SigmaModel | FlowModel,
    material: WindowBatches,
    passed: BasePass,
    windows: np.ndarray,
    noise: Tensor,
    time: Tensor,
) -> Tensor:
    """π0.5's flow-matching loss of each window (B,), masked at padded steps.

    Args:
        passed: the prefix of these windows as the model reads it.
        noise: (B, R, Tc, Ap), R draws that share one prefix.
        time: (B, R).
    """
    device = material.builder.device
    raw = material.shards.window_action[windows]
    actions = torch.from_numpy(material.builder.normalisation.action.normalise(raw)).to(device)
    losses = prefix.flow_matching_loss(model.policy, passed.encoded, actions, noise.to(device), time.to(device))
    valid = torch.from_numpy(material.shards.window_valid[windows]).to(device)[:, None, :, None]
    weight = (valid & material.scored_joints()).expand_as(losses).to(losses.dtype)
    return (losses * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)


def step_noise(
    model: SigmaModel | FlowModel, parameters: "TrainParameters", step: int, part: slice, total: int
) -> tuple[Tensor, Tensor]:
    """Noise and time of one micro-batch: a slice of the whole step's, so that how it is cut cannot change the draws."""
    drawn = draw_noise_and_time(model.policy.config, total, parameters.flow_draws, parameters.seed, "flow", step)
    return drawn[0][part], drawn[1][part]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without gradients and without dropout inside the block."""
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(before)


@dataclass(frozen=True)
class TauControl:
    """How the norm of the anticipated factors is held while flow matching shapes them; see ``loss.tau``."""

    weight: float
    norm: float
    band: float


class FlowObjective:
    """Flow matching, be it of LoRA on language model and action expert or of the whole policy.

    What selects the weights is not the flow-matching loss but the error of the action that is executed, which is also
    what selects Sigma's; the loss is recorded beside it.
    """

    name = "flow"

    def __init__(
        self,
        model: SigmaModel | FlowModel,
        material: WindowBatches,
        parameters: "TrainParameters",
        parts: dict[str, Any],
        tau: TauControl | None = None,
    ):
        self.model, self.material, self.parameters, self.tau = model, material, parameters, tau
        self.train, self.validation = parts["train"], parts["validation"]
        self.joints = material.scored_joints()
        self.extra_metrics: dict[str, float] = {}
        self.sampler = WindowSampler(len(self.train), parameters.batch * parameters.accumulation, parameters.seed)

    def rows(self, step: int) -> np.ndarray:
        return self.sampler.rows(step)

    upcoming_rows = rows

    def read_ahead(self, rows: np.ndarray, step: int, start: int, total: int) -> None:
        numbers = self.material.views.drawn(step, slice(start, start + len(rows)), total)
        self.material.read_ahead(self.train[rows], numbers)

    def loss(self, rows: np.ndarray, step: int, start: int, total: int) -> tuple[Tensor, dict[str, float]]:
        part = slice(start, start + len(rows))
        noise, time = step_noise(self.model, self.parameters, step, part, total)
        windows = self.train[rows]
        passed = self._pass(windows, self.material.views.drawn(step, part, total))
        losses = flow_loss(self.model, self.material, passed, windows, noise, time)
        objective, logs = losses.sum() / total, {"flow": losses.sum().item() / total}
        if self.tau is not None and isinstance(passed, AdaptedPass) and passed.anticipation is not None:
            held = tau_norm_loss(passed.anticipation.factors, self.tau.norm, self.tau.band) * len(rows) / total
            objective = objective + self.tau.weight * held
            logs |= {"tau": held.item()}
        return objective, logs

    def _pass(self, windows: np.ndarray, numbers: np.ndarray | None = None) -> BasePass:
        whole = isinstance(self.model, FlowModel) and self.model.whole
        return self.model.adapted_pass(self.material.observation(windows, numbers=numbers, train_vision=whole))

    def after_step(self) -> None:
        """Nothing is carried from step to step."""

    def validate(self, batch: int) -> float:
        """mse_plan of the validation windows by the action from zero noise, in normalised units.

        ``extra_metrics["flow"]`` is then their flow-matching loss, under noise that is the same at every validation.
        """
        material, policy, draws = self.material, self.model.policy, self.parameters.flow_draws
        errors, losses = [], []
        address = (self.parameters.seed, "flow-validation")
        noise, time = draw_noise_and_time(policy.config, len(self.validation), draws, *address)
        with evaluating(self.model):
            starts = range(0, len(self.validation), batch)
            for start in processes.local_shard(starts):
                rows = slice(start, start + batch)
                windows = self.validation[rows]
                passed = self._pass(windows)
                plan = material.decide(policy, passed.encoded, windows, "zero_noise")
                errors.append(plan_error(plan, *material.targets(windows), self.joints).cpu())
                losses.append(flow_loss(self.model, material, passed, windows, noise[rows], time[rows]).cpu())
        self.extra_metrics = {"flow": torch.cat(processes.gather_parts(losses, len(starts))).mean().item()}
        return torch.cat(processes.gather_parts(errors, len(starts))).mean().item()

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""


class ResidualObjective:
    """Residual regression at three scales with TRAF, TSAC, norm control and, if asked for, flow matching beside it."""

    name = "residual"

    def __init__(
        self,
        model: SigmaModel,
        material: WindowBatches,
        parameters: "TrainParameters",
        loss: "LossParameters",
        parts: dict[str, Any],
        head_base: Callable[[np.ndarray], Tensor],
        bank: Tensor,
        tau_norm: float,
    ):
        self.model, self.material, self.parameters, self.losses = model, material, parameters, loss
        self.train, self.validation = parts["train"], parts["validation"]
        self.head_base, self.bank, self.tau_norm = head_base, bank, tau_norm
        self.joints = material.scored_joints()
        self.extra_metrics: dict[str, float] = {}
        traf = loss.traf
        self.hard = HardWindows(len(self.train), traf.top_k, traf.focus, traf.decay)
        self.sampler = WindowSampler(len(self.train), parameters.batch * parameters.accumulation, parameters.seed)
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []
        self.weights = self.hard.weights()

    def rows(self, step: int) -> np.ndarray:
        self.weights = self.hard.weights()
        # Drawn in proportion to equal weights, some windows would wait for very long to be seen at all.
        if self.losses.traf.draw and self.hard.known:
            rows, self.weights = self.sampler.rows(step, self.weights), np.ones_like(self.weights)
            return rows
        return self.sampler.rows(step)

    def upcoming_rows(self, step: int) -> np.ndarray | None:
        return None if self.losses.traf.draw else self.sampler.rows(step)

    def read_ahead(self, rows: np.ndarray, step: int, start: int, total: int) -> None:
        numbers = self.material.views.drawn(step, slice(start, start + len(rows)), total)
        self.material.read_ahead(self.train[rows], numbers)

    def loss(self, rows: np.ndarray, step: int, start: int, total: int) -> tuple[Tensor, dict[str, float]]:
        parameters, losses, part = self.parameters, self.losses, slice(start, start + len(rows))
        windows = self.train[rows]
        jitter = generator(parameters.seed, "state", step).standard_normal((total, self.material.base.state_dim))
        jitter = jitter[part] * parameters.state_noise
        numbers = self.material.views.drawn(step, part, total)
        observation = self.material.observation(windows, jitter if parameters.state_noise else None, numbers=numbers)
        action, valid = self.material.targets(windows)
        base = self.head_base(windows)
        passed = self.model.adapted_pass(observation, cache=losses.flow > 0)
        decision = self.model(observation, base, passed=passed)
        errors = residual_errors(decision.residuals, action - base, valid, self.joints)
        weight = torch.from_numpy(self.weights[rows]).to(base.device, base.dtype)
        regression = sum(
            getattr(losses, ABBREVIATIONS[span]) * (weight * error).sum() / total for span, error in errors.items()
        )
        logs = {ABBREVIATIONS[span]: error.sum().item() / total for span, error in errors.items()}
        objective = regression
        if decision.telepathy is not None:
            extra, terms = self._shape(decision.telepathy, observation, step)
            share = len(rows) / total
            objective = objective + share * extra
            logs |= {name: share * value for name, value in terms.items()}
        if losses.flow:
            noise, time = step_noise(self.model, parameters, step, part, total)
            flow = flow_loss(self.model, self.material, passed, windows, noise, time).sum() / total
            objective = objective + losses.flow * flow
            logs["flow"] = flow.item()
        vector, chunk, trajectory = errors.values()
        mean_error = (vector + chunk + trajectory) / 3
        self.seen.append((rows, mean_error.detach().double().cpu().numpy()))
        return objective, logs

    def _shape(self, telepathy: TelepathyState, observation: Observation, step: int) -> tuple[Tensor, dict[str, float]]:
        """TSAC and the control of the factors' norm; a model without telepathy has neither."""
        losses, tsac = self.losses, self.losses.tsac
        extra, terms = regularisers(
            telepathy,
            observation.text,
            self.bank,
            ramp=curriculum(step / self.parameters.steps, tsac.start, tsac.end),
            memory_text=tsac.memory_text,
            intent_telepathy=tsac.intent_telepathy,
            temperature=tsac.temperature,
            tau=losses.tau,
            tau_norm=self.tau_norm,
            tau_band=losses.tau_band,
        )
        logs = {name: value.item() for name, value in terms.items()}
        logs["tau_l2"] = telepathy.factors.flatten(1).norm(dim=-1).mean().item()
        logs["sem_align"] = telepathy.alignment.mean().item()
        return extra, logs

    def after_step(self) -> None:
        """Write the step's errors into TRAF's table, all micro-batches of all processes at once."""
        seen = [part for parts in processes.all_gather(self.seen) for part in parts]
        rows, errors = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        self.hard.update(rows, errors)
        self.seen.clear()

    def validate(self, batch: int) -> float:
        """mse_plan of the validation windows at scale 1, in normalised units."""
        sums, total, count = [], 0.0, 0
        with evaluating(self.model):
            starts = range(0, len(self.validation), batch)
            for start in processes.local_shard(starts):
                windows = self.validation[start : start + batch]
                action, valid = self.material.targets(windows)
                base = self.head_base(windows)
                decision = self.model(self.material.observation(windows), base)
                plan = base + executed_plan(decision.residuals)
                sums.append((plan_error(plan, action, valid, self.joints).sum().item(), len(windows)))
        for error, windows in processes.gather_parts(sums, len(starts)):
            total += error
            count += windows
        return total / count

    def state(self) -> dict[str, Tensor]:
        return {"errors": torch.from_numpy(self.hard.errors.copy())}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.hard.errors = state["errors"].numpy().copy()
