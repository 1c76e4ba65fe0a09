"""The objective of the finetune stage: flow matching on three spans, and the terms that shape the telepathy path.

Legend: B batch, R noise draws, T horizon, A action dim, J bank texts, d backbone width.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from sigma.compute import processes
from sigma.parameters.training import LossParameters, TrainParameters
from sigma.policy.model.decision import SigmaModel
from sigma.shared.seeding import generator
from sigma.shared.spans import ABBREVIATIONS
from sigma.training.batches import WindowBatches, map_parts
from sigma.training.flow import FlowModel, draw_noise_and_time, flow_losses, step_noise
from sigma.training.loop import Objective
from sigma.training.losses import HardWindows, NoiseLevels, TermInputs, curriculum, plan_error, weighted_terms
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


@dataclass(frozen=True)
class TelepathyTargets:
    """What the telepathy path is held to.

    Attributes:
        bank: (J, d) mean frozen embeddings of the instructions that the semantic factors are told apart from.
        norm: the norm of the factors.
    """

    bank: Tensor
    norm: float


@dataclass(eq=False)
class FlowObjective(Objective):
    """Flow matching on three spans with TRAF and, where the model has a telepathy path, its other terms.

    ``parts`` holds row numbers of the windows, by ``train`` and ``validation``; a step's rows count within ``train``.
    The weights are selected by the validation windows' flow-matching loss on the whole chunk, π0.5's own loss, which is
    a proper score; the error of the action from zero noise is recorded beside it. A policy can find one of two good
    ways early on and be right on average only later.
    """

    name = "flow"
    model: SigmaModel | FlowModel
    batches: WindowBatches
    parameters: TrainParameters
    losses: LossParameters
    parts: Mapping[str, np.ndarray]
    targets: TelepathyTargets | None = None
    extra_metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parameters, traf = self.parameters, self.losses.traf
        self.train, self.validation = self.parts["train"], self.parts["validation"]
        self.joints = self.batches.scored_joints()
        self.sampler = WindowSampler(len(self.train), parameters.batch * parameters.accumulation, parameters.seed)
        self.hard = HardWindows(self.batches.worth(traf)[self.train], traf.top_k, traf.focus, traf.decay)
        self.levels = NoiseLevels(traf.decay)
        self.seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # rows, losses and times of the step
        self.weights = self.hard.weights()

    def rows(self, step: int) -> np.ndarray:
        self.weights = self.hard.weights()
        return self.sampler.rows(step)

    def upcoming_rows(self, step: int) -> np.ndarray | None:
        return self.sampler.rows(step)

    def read_ahead(self, rows: np.ndarray, step: int, start: int, total: int) -> None:
        numbers = self.batches.views.draw_numbers(step, slice(start, start + len(rows)), total)
        self.batches.read_ahead(self.train[rows], numbers)

    def loss(self, rows: np.ndarray, step: int, start: int, total: int) -> tuple[Tensor, dict[str, float]]:
        parameters, part = self.parameters, slice(start, start + len(rows))
        policy, windows = self.model.policy, self.train[rows]
        jitter = None
        if parameters.state_noise:
            jitter = generator(parameters.seed, "state", step).standard_normal((total, self.batches.base.state_dim))
            jitter = jitter[part] * parameters.state_noise
        numbers = self.batches.views.draw_numbers(step, part, total)
        whole = isinstance(self.model, FlowModel) and self.model.whole
        observation, past = self.batches.observation(windows, jitter, numbers=numbers, train_vision=whole)
        passed = self.model.adapted_pass(observation, past)
        noise, time = step_noise(policy.config, parameters, step, part, total)
        spans = flow_losses(policy, self.batches, passed, windows, noise, time)
        weight = torch.from_numpy(self.weights[rows]).to(time)[:, None].to(observation.state)
        objective, logs = observation.state.new_zeros(()), {}
        for span, losses in spans.items():
            name = ABBREVIATIONS[span]
            if share := getattr(self.losses, name):
                objective = objective + share * (weight * losses).mean(1).sum() / total
            logs[name] = losses.detach().mean(1).sum().item() / total
        self.seen.append((rows, spans["trajectory"].detach().double().cpu().numpy(), time.double().numpy()))
        if isinstance(self.model, SigmaModel) and passed.telepathy is not None and self.targets is not None:
            factors = passed.telepathy.factors
            forgetting = self.model.heads.path.forgetting(passed.telepathy.memory, past)
            inputs = TermInputs(
                passed.telepathy, forgetting, observation.text, self.targets.bank, self.targets.norm, self.losses
            )
            tsac = self.losses.tsac
            extra, terms = weighted_terms(inputs, curriculum(step / parameters.steps, tsac.start, tsac.end))
            terms["tau_l2"] = factors.flatten(1).norm(dim=-1).mean()
            terms["sem_align"] = passed.telepathy.alignment.mean()
            objective = objective + len(rows) / total * extra
            logs |= {name: len(rows) / total * value.item() for name, value in terms.items()}
        return objective, logs

    def after_step(self) -> None:
        """Write the step's losses into TRAF's tables, all micro-batches of all processes at once."""
        gathered = [part for parts in processes.all_gather(self.seen) for part in parts]
        rows, losses, times = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
        self.levels.update(losses, times)
        self.hard.update(rows, self.levels.relative(losses, times))
        self.seen.clear()

    def validate(self, batch: int) -> float:
        """Flow-matching loss of the validation windows, under noise that is the same at every validation.

        ``extra_metrics["mse_plan"]`` is then the error of the action from zero noise, in normalised units.
        """
        batches, policy, parameters = self.batches, self.model.policy, self.parameters
        address = (parameters.seed, "flow-validation")
        noise, time = draw_noise_and_time(policy.config, len(self.validation), parameters.validation_draws, *address)

        def measure(rows: slice) -> tuple[Tensor, Tensor]:
            windows = self.validation[rows]
            observation, past = batches.observation(windows)
            passed = self.model.adapted_pass(observation, past)
            losses = flow_losses(policy, batches, passed, windows, noise[rows], time[rows])["trajectory"]
            plan = batches.decide(policy, passed.encoded, windows, "zero_noise", passed.steering)
            error = plan_error(plan, *batches.targets(windows), self.joints)
            return losses.mean(1).cpu(), error.cpu()

        with evaluating(self.model):
            losses, errors = zip(*map_parts(measure, len(self.validation), batch), strict=True)
        self.extra_metrics = {"mse_plan": torch.cat(errors).mean().item()}
        return torch.cat(losses).mean().item()

    def state(self) -> dict[str, Tensor]:
        return {
            "errors": torch.from_numpy(self.hard.errors.copy()),
            "levels": torch.from_numpy(self.levels.means.copy()),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.hard.errors = state["errors"].numpy().copy()
        self.levels.means = state["levels"].numpy().copy()
