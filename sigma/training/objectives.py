"""The two things that are trained: LoRA by flow matching, and residuals with everything that shapes them.

Legend: B batch, T horizon, Tc the base's chunk size, A action dim, R noise draws.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sigma.policy import prefix
from sigma.policy.decision import SigmaModel
from sigma.policy.residuals import SCALES, executed_plan
from sigma.seeding import generator
from sigma.training.losses import HardWindows, curriculum, regularisers, residual_errors
from sigma.training.material import Material
from sigma.training.sampler import WindowSampler

if TYPE_CHECKING:
    from sigma.commands.finetune import LossParameters, TrainParameters


def flow_loss(model: SigmaModel, material: Material, windows: np.ndarray, draws: int, *address: int | str) -> Tensor:
    """π0.5's flow-matching loss of each window (B,), masked at padded steps, over R noise draws on one prefix."""
    config, device = model.policy.config, material.builder.device
    passed = model.adapted_pass(material.observation(windows))
    random = generator(*address)
    shape = (len(windows), draws, config.chunk_size, config.max_action_dim)
    noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32)).to(device)
    beta = random.beta(config.time_sampling_beta_alpha, config.time_sampling_beta_beta, shape[:2])
    time = torch.from_numpy((beta * config.time_sampling_scale + config.time_sampling_offset).astype(np.float32))
    raw = material.shards.window_action[windows]
    actions = torch.from_numpy(material.builder.normalisation.action.normalise(raw)).to(device)
    losses = prefix.flow_matching_loss(model.policy, passed.encoded, actions, noise, time.to(device))
    valid = torch.from_numpy(material.shards.window_valid[windows]).to(device)[:, None, :, None]
    weight = (valid & material.scored_joints()).expand_as(losses).to(losses.dtype)
    return (losses * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)


class FlowObjective:
    """A plain LoRA fine-tune: flow matching with adapters on language model and action expert."""

    name = "flow"

    def __init__(self, model: SigmaModel, material: Material, parameters: "TrainParameters", parts: dict[str, Any]):
        self.model, self.material, self.parameters = model, material, parameters
        self.train, self.validation = parts["train"], parts["validation"]
        self.sampler = WindowSampler(len(self.train), parameters.batch * parameters.accumulation, parameters.seed)

    def rows(self, step: int) -> np.ndarray:
        return self.sampler.rows(step)

    def loss(self, rows: np.ndarray, step: int, part: int, total: int) -> tuple[Tensor, dict[str, float]]:
        address = (self.parameters.seed, "flow", step, part)
        losses = flow_loss(self.model, self.material, self.train[rows], self.parameters.flow_draws, *address)
        return losses.sum() / total, {"flow": losses.sum().item() / total}

    def after_step(self) -> None:
        """Nothing is carried from step to step."""

    def validate(self, batch: int) -> float:
        """Flow-matching loss on the validation windows under fixed noise."""
        values = []
        with torch.no_grad():
            for start in range(0, len(self.validation), batch):
                windows = self.validation[start : start + batch]
                address = (self.parameters.seed, "flow-validation", start)
                values.append(flow_loss(self.model, self.material, windows, self.parameters.flow_draws, *address).cpu())
        return torch.cat(values).mean().item()

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
        material: Material,
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
        traf = loss.traf
        self.hard = HardWindows(len(self.train), traf.top_k, traf.focus, traf.decay)
        self.sampler = WindowSampler(len(self.train), parameters.batch * parameters.accumulation, parameters.seed)
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []
        self.weights = self.hard.weights()

    def rows(self, step: int) -> np.ndarray:
        self.weights = self.hard.weights()
        if self.losses.traf.draw:
            rows, self.weights = self.sampler.rows(step, self.weights), np.ones_like(self.weights)
            return rows
        return self.sampler.rows(step)

    def loss(self, rows: np.ndarray, step: int, part: int, total: int) -> tuple[Tensor, dict[str, float]]:
        parameters, losses = self.parameters, self.losses
        windows = self.train[rows]
        shape = (len(rows), self.material.base.state_dim)
        jitter = generator(parameters.seed, "state", step, part).standard_normal(shape) * parameters.state_noise
        observation = self.material.observation(windows, jitter if parameters.state_noise else None)
        action, valid = self.material.targets(windows)
        base = self.head_base(windows)
        decision = self.model(observation, base)
        errors = residual_errors(decision.residuals, action - base, valid, self.joints)
        weight = torch.from_numpy(self.weights[rows]).to(base.device, base.dtype)
        scaled = {"vec": losses.vec, "chk": losses.chk, "trj": losses.trj}
        regression = sum(
            factor * (weight * getattr(errors, scale)).sum() / total
            for factor, scale in zip(scaled.values(), SCALES, strict=True)
        )
        tsac = losses.tsac
        extra, terms = regularisers(
            decision,
            observation.text,
            self.bank,
            ramp=curriculum(step / parameters.steps, tsac.start, tsac.end),
            memory_text=tsac.memory_text,
            intent_telepathy=tsac.intent_telepathy,
            temperature=tsac.temperature,
            tau=losses.tau,
            tau_norm=self.tau_norm,
            tau_band=losses.tau_band,
        )
        share = len(rows) / total
        objective = regression + share * extra
        logs = {name: getattr(errors, scale).sum().item() / total for name, scale in zip(scaled, SCALES, strict=True)}
        logs |= {name: share * value.item() for name, value in terms.items()}
        logs["tau_l2"] = share * decision.thought.factors.flatten(1).norm(dim=-1).mean().item()
        logs["sem_align"] = share * decision.alignment.mean().item()
        if losses.flow:
            address = (parameters.seed, "flow", step, part)
            flow = flow_loss(self.model, self.material, windows, parameters.flow_draws, *address).sum() / total
            objective = objective + losses.flow * flow
            logs["flow"] = flow.item()
        mean_error = (errors.vector + errors.chunk + errors.trajectory) / 3
        self.seen.append((rows, mean_error.detach().double().cpu().numpy()))
        return objective, logs

    def after_step(self) -> None:
        """Write the step's errors into TRAF's table, all micro-batches at once."""
        rows, errors = (np.concatenate(parts) for parts in zip(*self.seen, strict=True))
        self.hard.update(rows, errors)
        self.seen.clear()

    def validate(self, batch: int) -> float:
        """mse_plan of the validation windows at scale 1, in normalised units."""
        total, count = 0.0, 0
        with torch.no_grad():
            for start in range(0, len(self.validation), batch):
                windows = self.validation[start : start + batch]
                action, valid = self.material.targets(windows)
                base = self.head_base(windows)
                decision = self.model(self.material.observation(windows), base)
                error = (base + executed_plan(decision.residuals) - action).square()
                weight = (valid[..., None] & self.joints).to(error.dtype)
                total += ((error * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)).sum().item()
                count += len(windows)
        return total / count

    def state(self) -> dict[str, Tensor]:
        return {"errors": torch.from_numpy(self.hard.errors.copy())}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.hard.errors = state["errors"].numpy().copy()


def trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
