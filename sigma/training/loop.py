"""The optimisation loop: accumulation, schedule, averaged weights, selection on validation, exact resume.

A phase is one objective with the parameters it trains. The order of rows, all noise and the learning rate are functions
of the seed and the step, so that the saved state is small: weights, their average, the optimizer, the objective's own
state, the best weights so far, and the curve.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sigma.compute import processes
from sigma.shared.errors import SigmaError
from sigma.shared.progress import progress
from sigma.shared.seeding import seed_from
from sigma.training.state import Scratch
from sigma.training.throughput import Speed


class Objective(ABC):
    """What a phase minimises of ``model``; the losses of all parts of a step add up to the step's loss.

    A part is some of the step's ``total`` rows, from row ``start`` on. What is drawn for a row (noise, views) must not
    depend on how the step is cut into parts.
    """

    name: str
    model: nn.Module
    extra_metrics: dict[str, float]  # what the last validation measured beside its value, for the curve alone

    @abstractmethod
    def rows(self, step: int) -> np.ndarray:
        """The rows of an optimizer step, of whatever the objective trains on."""

    @abstractmethod
    def loss(self, rows: np.ndarray, step: int, start: int, total: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of one part, and its terms for the curve."""

    @abstractmethod
    def validate(self, batch: int) -> float:
        """The validation error, which selects the weights, by forward passes over ``batch`` rows."""

    def upcoming_rows(self, step: int) -> np.ndarray | None:
        """The rows of a later step, to be read ahead; None where they depend on what is learned until then."""
        return None

    def read_ahead(self, rows: np.ndarray, step: int, start: int, total: int) -> None:
        """Begin to read what the loss of this part will read; by default nothing is read ahead."""
        return None

    def after_step(self) -> None:
        """Called after each optimizer step; by default nothing is carried from step to step."""
        return None

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs besides weights, optimizer and curve; by default nothing."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        return None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Numbers of one phase; see ``train`` in params.yaml.

    Attributes:
        warmup: a share of the steps.
        fused: one optimizer kernel for all tensors on a CPU too, which changes the last digits; a GPU always has it.
        remedy: the parameters to lower when the training diverges, for the error message.
    """

    steps: int
    batch: int
    accumulation: int
    warmup: float
    weight_decay: float
    clip: float
    average: float
    validate_every: int
    checkpoint_every: int
    select: str
    seed: int
    autocast: Literal["bfloat16"] | None = None
    fused: bool = False
    remedy: str = "train.learning_rate, train.lora_learning_rate or train.clip"

    def rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then a cosine to zero."""
        warm = self.warmup * self.steps
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1.0, self.steps - warm))


@dataclass
class Curve:
    """Points of one phase, in the order of steps."""

    name: str
    train: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class PhaseResult:
    """A finished phase.

    Attributes:
        selected: step of the selected weights, and ``validation`` their error.
        trained: how many parameters ever had a gradient.
        speed: of the steps that this run made; a resumed run makes fewer.
    """

    curve: Curve
    selected: int
    validation: float
    trained: int
    speed: list[dict[str, float]] = field(default_factory=list, compare=False)


class _Loss(nn.Module):
    """An objective's loss as the ``forward`` of a module, which is what data-parallel training wraps.

    With ``autocast`` matrix products of 32-bit weights are computed in 16 bits; weights and gradients stay in 32.
    """

    def __init__(self, objective: Objective, autocast: str | None):
        super().__init__()
        self.model, self.objective, self.autocast = objective.model, objective, autocast

    def forward(self, rows: np.ndarray, step: int, start: int, total: int) -> tuple[Tensor, dict[str, float]]:
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.autocast is not None):
            return self.objective.loss(rows, step, start, total)


class Phase:
    """One objective, its named parameters in groups of one learning rate each, and its state."""

    def __init__(self, objective: Objective, groups: list[tuple[dict[str, nn.Parameter], float]], schedule: Schedule):
        self.objective, self.schedule = objective, schedule
        self.loss = processes.data_parallel(_Loss(objective, schedule.autocast))
        self.named = {name: parameter for group, _ in groups for name, parameter in group.items()}
        self.rates = [rate for _, rate in groups]
        self.device = next(iter(self.named.values())).device
        self.optimizer = torch.optim.AdamW(
            [{"params": list(group.values()), "lr": rate} for group, rate in groups],
            weight_decay=schedule.weight_decay,
            fused=schedule.fused or self.device.type == "cuda",
        )
        self.speed = Speed(self.device)
        self.averaged = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        self.best: dict[str, Any] = {"step": 0, "value": math.inf, "tensors": {}}
        self.curve = Curve(objective.name)
        self.step = 0

    def run(self, scratch: Scratch, validation_batch: int) -> PhaseResult:
        """Train from the last saved step to the end and put the selected weights into the parameters.

        Args:
            scratch: where the state is kept.
            validation_batch: windows a forward pass in validation.
        """
        schedule = self.schedule
        with progress(self.objective.name, schedule.steps) as meter:
            meter.advance(self.step)
            while self.step < schedule.steps:
                with self.speed.step(schedule.batch * schedule.accumulation):
                    loss = self._optimize()
                self.step += 1
                note = f"loss {loss:.4f}, {self.speed.rate:.1f} windows/s"
                if self.step % schedule.validate_every == 0 or self.step == schedule.steps:
                    self._validate(validation_batch)
                    self.speed.note(self.step)
                if self.step % schedule.checkpoint_every == 0 and self.step < schedule.steps:
                    scratch.save(self.state())
                meter.advance(1, note)
        best = schedule.select == "best"
        chosen = self.best if best else self.curve.validation[-1]
        self._assign(self.best["tensors"] if best else self.averaged)
        # AdamW keeps a state of just those parameters that it has moved.
        trained = sum(parameter.numel() for parameter in self.optimizer.state)
        return PhaseResult(self.curve, int(chosen["step"]), float(chosen["value"]), trained, self.speed.points)

    def _optimize(self) -> float:
        schedule, objective = self.schedule, self.objective
        rows = objective.rows(self.step)
        rate = schedule.rate(self.step)
        for group, peak in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = peak * rate
        torch.manual_seed(seed_from(schedule.seed, "dropout", objective.name, self.step) % 2**63)
        value, logs = self._accumulate(rows)
        norm = nn.utils.clip_grad_norm_(self.named.values(), schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        objective.after_step()
        # A young average must not remember the initial weights: the decay grows towards its value.
        decay = min(schedule.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, parameter in self.named.items():
                self.averaged[name].lerp_(parameter, 1 - decay)
        self.curve.train.append({"step": self.step + 1, "loss": value, "grad_norm": norm.item(), "rate": rate, **logs})
        return value

    def _accumulate(self, rows: np.ndarray) -> tuple[float, dict[str, float]]:
        """Loss and terms of a step's rows, of which each process takes its share; the parameters have its gradients."""
        logs: dict[str, float] = {}
        value = 0.0
        parts = self._parts(rows)
        for number, (start, stop) in enumerate(parts, 1):
            self._read_ahead(rows, parts[number:])
            with processes.accumulating(self.loss, last=number == len(parts)):
                loss, terms = self.loss(rows[start:stop], self.step, start, len(rows))
                if not torch.isfinite(loss):
                    raise self._diverged("loss")
                (loss * processes.count()).backward()  # gradients are averaged, parts of a loss add up
            value += loss.item()
            for name, term in terms.items():
                logs[name] = logs.get(name, 0.0) + term
        values, terms = zip(*processes.all_gather((value, logs)), strict=True)
        return sum(values), {name: sum(part[name] for part in terms) for name in logs}

    def _parts(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """First row and end of every micro-batch that this process takes of a step's rows."""
        share, batch = processes.share(len(rows)), self.schedule.batch
        return [(start, min(start + batch, share.stop)) for start in range(share.start, share.stop, batch)]

    def _read_ahead(self, rows: np.ndarray, left: list[tuple[int, int]]) -> None:
        """Begin to read the next of the parts that are left of this step, or else the first one of the next step."""
        step, upcoming = self.step, rows
        if not left and step + 1 < self.schedule.steps:
            step += 1
            next_rows = self.objective.upcoming_rows(step)
            if next_rows is not None:
                upcoming, left = next_rows, self._parts(next_rows)
        if left:
            start, stop = left[0]
            self.objective.read_ahead(upcoming[start:stop], step, start, len(upcoming))

    def _validate(self, batch: int) -> None:
        live = {name: parameter.detach().clone() for name, parameter in self.named.items()}
        self._assign(self.averaged)
        value = self.objective.validate(batch)
        self._assign(live)
        if not math.isfinite(value):
            raise self._diverged("validation error")
        self.curve.validation.append({"step": self.step, "value": value, **self.objective.extra_metrics})
        if value < self.best["value"]:
            tensors = {name: tensor.clone() for name, tensor in self.averaged.items()}
            self.best = {"step": self.step, "value": value, "tensors": tensors}

    def _diverged(self, quantity: str) -> SigmaError:
        return SigmaError(
            f"{self.objective.name}: the {quantity} is not finite at step {self.step}; "
            f"lower {self.schedule.remedy} in params.yaml"
        )

    def _assign(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[name])

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "weights": {name: parameter.detach().clone() for name, parameter in self.named.items()},
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "objective": self.objective.state(),
            "best": self.best,
            "train": self.curve.train,
            "validation": self.curve.validation,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self._assign(state["weights"])
        self.averaged = {name: tensor.to(self.device) for name, tensor in state["averaged"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state(state["objective"])
        self.best = state["best"]
        self.curve.train, self.curve.validation = state["train"], state["validation"]
