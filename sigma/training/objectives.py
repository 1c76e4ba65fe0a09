"""The two objectives of the finetune stage: flow matching, and regression of residuals with all that shapes them.

Legend: B batch, T horizon, A action dim.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor, nn

from sigma.compute import processes
from sigma.parameters.training import LossParameters, TrainParameters
from sigma.policy.model.decision import AdaptedPass, SigmaModel
from sigma.policy.pi05.observation import BasePass
from sigma.shared.seeding import generator
from sigma.shared.spans import ABBREVIATIONS, executed_plan
from sigma.training.batches import WindowBatches, map_parts
from sigma.training.flow import FlowModel, draw_noise_and_time, flow_loss, step_noise
from sigma.training.loop import Objective
from sigma.training.losses import (
    HardWindows,
    TermInputs,
    curriculum,
    plan_error,
    residual_errors,
    tau_norm_loss,
    weighted_terms,
)
from sigma.training.sampler import WindowSampler


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients and without dropout inside the block."""
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(before)


@dataclass(eq=False)
class WindowObjective(Objective):
    """An objective on the train windows, validated on the validation windows.

    ``parts`` holds row numbers of the windows, by ``train`` and ``validation``; a step's rows count within ``train``.
    """

    model: nn.Module
    batches: WindowBatches
    parameters: TrainParameters
    parts: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        parameters = self.parameters
        self.train, self.validation = self.parts["train"], self.parts["validation"]
        self.joints = self.batches.scored_joints()
        self.extra_metrics: dict[str, float] = {}
        self.sampler = WindowSampler(len(self.train), parameters.batch * parameters.accumulation, parameters.seed)

    def rows(self, step: int) -> np.ndarray:
        return self.sampler.rows(step)

    def upcoming_rows(self, step: int) -> np.ndarray | None:
        return self.sampler.rows(step)

    def read_ahead(self, rows: np.ndarray, step: int, start: int, total: int) -> None:
        numbers = self.batches.views.draw_numbers(step, slice(start, start + len(rows)), total)
        self.batches.read_ahead(self.train[rows], numbers)


@dataclass(eq=False)
class FlowObjective(WindowObjective):
    """Flow matching of LoRA on language model and action expert, or of the whole policy.

    The weights are selected not by the flow-matching loss but by the error of the executed action, which also selects
    Sigma's; the loss is recorded beside it. With ``losses`` the norm of the anticipated factors, which flow matching
    shapes, is held to ``tau_norm``.
    """

    name = "flow"
    model: SigmaModel | FlowModel
    losses: LossParameters | None = None
    tau_norm: float = 1.0

    def loss(self, rows: np.ndarray, step: int, start: int, total: int) -> tuple[Tensor, dict[str, float]]:
        part, policy = slice(start, start + len(rows)), self.model.policy
        noise, time = step_noise(policy.config, self.parameters, step, part, total)
        windows = self.train[rows]
        passed = self._pass(windows, self.batches.views.draw_numbers(step, part, total))
        losses = flow_loss(policy, self.batches, passed, windows, noise, time)
        objective, logs = losses.sum() / total, {"flow": losses.sum().item() / total}
        if self.losses is not None and isinstance(passed, AdaptedPass) and passed.anticipation is not None:
            tau = tau_norm_loss(passed.anticipation.factors, self.tau_norm, self.losses.tau_band) * len(rows) / total
            objective = objective + self.losses.tau * tau
            logs |= {"tau": tau.item()}
        return objective, logs

    def _pass(self, windows: np.ndarray, numbers: np.ndarray | None = None) -> BasePass:
        whole = isinstance(self.model, FlowModel) and self.model.whole
        return self.model.adapted_pass(self.batches.observation(windows, numbers=numbers, train_vision=whole))

    def validate(self, batch: int) -> float:
        """mse_plan of the validation windows by the action from zero noise, in normalised units.

        ``extra_metrics["flow"]`` is then their flow-matching loss, under noise that is the same at every validation.
        """
        batches, policy, draws = self.batches, self.model.policy, self.parameters.flow_draws
        address = (self.parameters.seed, "flow-validation")
        noise, time = draw_noise_and_time(policy.config, len(self.validation), draws, *address)

        def measure(rows: slice) -> tuple[Tensor, Tensor]:
            windows = self.validation[rows]
            passed = self._pass(windows)
            plan = batches.decide(policy, passed.encoded, windows, "zero_noise")
            error = plan_error(plan, *batches.targets(windows), self.joints)
            return error.cpu(), flow_loss(policy, batches, passed, windows, noise[rows], time[rows]).cpu()

        with evaluating(self.model):
            errors, losses = zip(*map_parts(measure, len(self.validation), batch), strict=True)
        self.extra_metrics = {"flow": torch.cat(losses).mean().item()}
        return torch.cat(errors).mean().item()


@dataclass(eq=False)
class ResidualObjective(WindowObjective):
    """Residual regression at three scales with TRAF, the loss's other terms, and flow matching if ``loss.flow`` is set.

    Args:
        head_base: the action (B, T, A) of given windows that the residuals correct.
        bank: (J, d) mean frozen embeddings of the instructions that the semantic factors are told apart from.
        tau_norm: the norm that the factors are held to.
    """

    name = "residual"
    model: SigmaModel
    losses: LossParameters
    head_base: Callable[[np.ndarray], Tensor]
    bank: Tensor
    tau_norm: float

    def __post_init__(self) -> None:
        super().__post_init__()
        traf = self.losses.traf
        self.hard = HardWindows(len(self.train), traf.top_k, traf.focus, traf.decay)
        self.step_errors: list[tuple[np.ndarray, np.ndarray]] = []
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

    def loss(self, rows: np.ndarray, step: int, start: int, total: int) -> tuple[Tensor, dict[str, float]]:
        parameters, losses, part = self.parameters, self.losses, slice(start, start + len(rows))
        windows = self.train[rows]
        jitter = generator(parameters.seed, "state", step).standard_normal((total, self.batches.base.state_dim))
        jitter = jitter[part] * parameters.state_noise
        numbers = self.batches.views.draw_numbers(step, part, total)
        observation = self.batches.observation(windows, jitter if parameters.state_noise else None, numbers=numbers)
        action, valid = self.batches.targets(windows)
        base = self.head_base(windows)
        passed = self.model.adapted_pass(observation, cache=losses.flow > 0)
        decision = self.model(observation, base, passed=passed)
        errors = residual_errors(decision.residuals, action - base, valid, self.joints)
        weight = torch.from_numpy(self.weights[rows]).to(base.device, base.dtype)
        objective = sum(
            getattr(losses, ABBREVIATIONS[span]) * (weight * error).sum() / total for span, error in errors.items()
        )
        logs = {ABBREVIATIONS[span]: error.sum().item() / total for span, error in errors.items()}
        # Without telepathy (the residual MLP) there are no factors for the terms to shape.
        if (telepathy := decision.telepathy) is not None:
            inputs = TermInputs(telepathy, observation.text, self.bank, self.tau_norm, losses)
            ramp = curriculum(step / parameters.steps, losses.tsac.start, losses.tsac.end)
            extra, terms = weighted_terms(inputs, ramp)
            terms["tau_l2"] = telepathy.factors.flatten(1).norm(dim=-1).mean()
            terms["sem_align"] = telepathy.alignment.mean()
            share = len(rows) / total
            objective = objective + share * extra
            logs |= {name: share * value.item() for name, value in terms.items()}
        if losses.flow:
            noise, time = step_noise(self.model.policy.config, parameters, step, part, total)
            flow = flow_loss(self.model.policy, self.batches, passed, windows, noise, time).sum() / total
            objective = objective + losses.flow * flow
            logs["flow"] = flow.item()
        vector, chunk, trajectory = errors.values()
        mean_error = (vector + chunk + trajectory) / 3
        self.step_errors.append((rows, mean_error.detach().double().cpu().numpy()))
        return objective, logs

    def after_step(self) -> None:
        """Write the step's errors into TRAF's table, all micro-batches of all processes at once."""
        gathered = [part for parts in processes.all_gather(self.step_errors) for part in parts]
        rows, errors = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
        self.hard.update(rows, errors)
        self.step_errors.clear()

    def validate(self, batch: int) -> float:
        """mse_plan of the validation windows at scale 1, in normalised units."""

        def error_sum(rows: slice) -> float:
            windows = self.validation[rows]
            base = self.head_base(windows)
            plan = base + executed_plan(self.model(self.batches.observation(windows), base).residuals)
            return plan_error(plan, *self.batches.targets(windows), self.joints).sum().item()

        with evaluating(self.model):
            # Not the built-in sum, whose compensated addition would change the last digits.
            total = reduce(add, map_parts(error_sum, len(self.validation), batch))
        return total / len(self.validation)

    def state(self) -> dict[str, Tensor]:
        return {"errors": torch.from_numpy(self.hard.errors.copy())}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.hard.errors = state["errors"].numpy().copy()
