"""A training step: Sigma's two phases against plain LoRA by LeRobot's own update function.

Both sides take the same windows of the same batch size from the shards, on bases of their own with LoRA of the same
rank on the same layers; a step begins with the choice of its windows and ends with the optimizer. Sigma's image tokens
are computed once before, where ``train.cache_vision`` says so; LeRobot's function computes them in every step.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch

from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.kept_record import Measured, NotMeasured, summary
from sigma.studies.benchmark.lerobot_policy import policy_batch, preprocessor
from sigma.studies.benchmark.measure import Place, alternate, split
from sigma.studies.benchmark.models import (
    as_lerobot,
    base_of,
    device_of,
    material_of,
    normalisation_of,
    plain_lora,
    unfilled,
)
from sigma.studies.benchmark.project import Project, train_windows
from sigma.training import objectives
from sigma.training.loop import Phase
from sigma.training.sampler import WindowSampler
from sigma.training.trainer import Trainer

Kind = Literal["flow", "residual"]
PARTS = ("data", "forward", "backward", "optimizer")
_METERS = ("loss", "grad_norm", "lr", "update_s", "gpu_mem_gb")


class SigmaSteps:
    """Optimizer steps of one of Sigma's phases, as the trainer makes them.

    Args:
        changes: of ``train`` in params.yaml.
        branch: of the base; that of params.yaml by default.
        compiled: whether the layers are compiled.
    """

    def __init__(
        self,
        project: Project,
        kind: Kind,
        *,
        changes: Mapping[str, Any] | None = None,
        branch: str | None = None,
        compiled: bool = False,
    ):
        base, machine = project.parameters.base, project.parameters.machine.model_copy(update={"compile": compiled})
        train = project.parameters.train.model_copy(update={"accumulation": 1, **(changes or {})})
        base = base.model_copy(update={"branch": branch or base.branch})
        material = material_of(project)
        trainer = Trainer(
            material, project.parameters.model_copy(update={"train": train, "base": base, "machine": machine})
        )
        adapted = trainer.branch == "adapted"
        if kind == "flow" and not adapted:
            raise NotMeasured("base.branch is frozen: Sigma has no flow phase")
        model = trainer.build()
        if train.cache_vision:
            material.cache_vision(np.concatenate(list(trainer.parts.values())), train.batch)
        adapter = {name: one for name, one in sorted(model.adapted.named_parameters()) if ".lora_" in name}
        before = {f"heads.{name}": one for name, one in model.heads.before_pass().items()} if adapted else {}
        if kind == "residual" and (adapted or not train.lora_learning_rate):
            for parameter in (adapter | before).values():
                parameter.requires_grad_(False)
            adapter = {}
        self.kind, self.material, self.model, self.train = kind, material, model, train
        if kind == "flow":
            self.phase: Phase = trainer._flow_phase(model, adapter, before)
        else:
            self.phase = trainer._residual_phase(model, adapter)
        self.trained = sum(parameter.numel() for parameter in self.phase.named.values() if parameter.requires_grad)

    def step(self) -> None:
        """One optimizer step."""
        self.phase._optimize()
        self.phase.step += 1

    def places(self) -> list[Place]:
        """Where data, forward and backward pass happen; the rest of a step is the optimizer's."""
        return [
            (self.phase.objective, "rows", "data"),
            (self.material, "observation", "data"),
            (self.material, "targets", "data"),
            (objectives, "step_noise", "data"),
            (self.phase.objective, "loss", "forward"),
            (torch.Tensor, "backward", "backward"),
        ]


class LeRobotSteps:
    """Steps of LeRobot's ``update_policy`` on the base under plain LoRA, on the windows that Sigma's step ``n`` has."""

    def __init__(self, project: Project):
        try:
            from accelerate import Accelerator
            from lerobot.scripts.lerobot_train import update_policy
        except ImportError as error:
            raise NotMeasured(f"LeRobot's trainer cannot be imported: {error}") from None
        from lerobot.utils.logging_utils import AverageMeter, MetricsTracker

        self.train, self.shards, self.base = project.parameters.train, project.shards(), base_of(project)
        self.windows = train_windows(self.shards)
        self.sampler = WindowSampler(len(self.windows), self.train.batch, self.train.seed)
        self.process = preprocessor(self.base, normalisation_of(project))
        self.tuned = plain_lora(project, self.base)
        parameters = lora.lora_parameters(self.tuned)
        self.trained = sum(parameter.numel() for parameter in parameters)
        self.optimizer = self.base.policy.config.get_optimizer_preset().build(parameters)
        self.accelerator = Accelerator(
            cpu=device_of(project).type == "cpu", step_scheduler_with_optimizer=False, mixed_precision="no"
        )
        meters = {name: AverageMeter(name) for name in _METERS}
        self.metrics = MetricsTracker(
            self.train.batch, len(self.shards.frame_step), len(np.unique(self.shards.frame_episode)), meters
        )
        self.update_policy, self.turn = update_policy, 0

    def batch(self) -> dict[str, Any]:
        """The next step's windows, ready for the policy."""
        rows = self.windows[self.sampler.rows(self.turn)]
        self.turn += 1
        return policy_batch(self.process, self.base, self.shards, rows, actions=True)

    def step(self) -> None:
        """One optimizer step."""
        self.metrics, _ = self.update_policy(
            self.metrics, self.tuned, self.batch(), self.optimizer, self.train.clip, self.accelerator
        )

    def places(self) -> list[Place]:
        return [
            (self, "batch", "data"),
            (self.tuned, "forward", "forward"),
            (torch.Tensor, "backward", "backward"),
        ]


def _seconds_a_step(step: Callable[[], None], steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - started) / steps


def _measure(project: Project, own: SigmaSteps) -> Measured:
    peer, steps = LeRobotSteps(project), project.settings.training.steps
    peer_step = as_lerobot(peer.step)
    sides = {"own": own.step, "peer": peer_step, "unfilled": unfilled(own.step)}
    values = alternate(
        {name: (lambda step=step: _seconds_a_step(step, steps)) for name, step in sides.items()}, project.effort
    )
    told = {"batch": own.train.batch}
    return Measured(
        values["own"],
        values["peer"],
        {
            **told,
            "split": split(own.step, own.places(), "optimizer", steps),
            "trained": own.trained,
            "vision_cached": own.train.cache_vision,
            "noise_draws": own.train.flow_draws if own.kind == "flow" else 0,
            "without_filled_memory": summary(values["unfilled"]),
        },
        {
            **told,
            "split": split(peer_step, peer.places(), "optimizer", steps),
            "trained": peer.trained,
            "vision_cached": False,
            "noise_draws": 1,
        },
    )


def _measure_switch(project: Project, own: Callable[[], SigmaSteps]) -> Measured:
    """A step of the flow phase with one switch of Sigma's own, and without it."""
    try:
        sides = {"own": own(), "peer": SigmaSteps(project, "flow")}
    except SigmaError as error:
        raise NotMeasured(str(error)) from None
    steps = project.settings.training.steps
    values = alternate(
        {name: (lambda step=side.step: _seconds_a_step(step, steps)) for name, side in sides.items()}, project.effort
    )
    return Measured(values["own"], values["peer"], {"batch": sides["own"].train.batch})


def training_step_compiled(project: Project) -> Measured:
    """Seconds of a step of the flow phase whose layers ``torch.compile`` has compiled, and of one without."""
    return _measure_switch(project, lambda: SigmaSteps(project, "flow", compiled=True))


def training_step_autocast(project: Project) -> Measured:
    """Seconds of a step of the flow phase with matrix products in 16 bits, and of one without."""
    return _measure_switch(project, lambda: SigmaSteps(project, "flow", changes={"autocast": "bfloat16"}))


def training_step_flow(project: Project) -> Measured:
    """Seconds of a step in which LoRA and what the backbone hears of the factors learn by flow matching."""
    return _measure(project, SigmaSteps(project, "flow"))


def training_step_flow_one_draw(project: Project) -> Measured:
    """The same with a single draw of noise and time for each window."""
    return _measure(project, SigmaSteps(project, "flow", changes={"flow_draws": 1}))


def training_step_residual(project: Project) -> Measured:
    """Seconds of a step in which the residual heads learn, and LoRA where the base branch is frozen."""
    return _measure(project, SigmaSteps(project, "residual"))


def training_step_frozen_branch(project: Project) -> Measured:
    """Seconds of a step with ``base.branch: frozen``: LoRA and heads learn residuals of the frozen base's action."""
    if project.parameters.base.branch == "frozen":
        raise NotMeasured("base.branch is frozen already: see training_step_residual")
    return _measure(project, SigmaSteps(project, "residual", branch="frozen"))


FIGURES: dict[str, Callable[[Project], Measured]] = {
    "training_step_flow": training_step_flow,
    "training_step_flow_one_draw": training_step_flow_one_draw,
    "training_step_residual": training_step_residual,
    "training_step_frozen_branch": training_step_frozen_branch,
    "training_step_compiled": training_step_compiled,
    "training_step_autocast": training_step_autocast,
}
