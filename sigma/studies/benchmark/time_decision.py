"""A decision at batch 1, from what a robot gives to joint targets: frozen base, plain LoRA, Sigma; and their parts.

Plain LoRA has Sigma's rank and layers and untrained weights: they take the time of trained ones. All sides compute as
under LeRobot's own commands, which is how a robot is run.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sigma.data.shards import Shards
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control import controller
from sigma.policy.control import sigma_controller as runtime
from sigma.policy.control.controller import BaseController
from sigma.policy.control.robot_observation import RobotObservation, live_observation
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.model.model_folder import read_config
from sigma.policy.model.vla import SigmaTelepathyVLA
from sigma.policy.pi05.base import Base
from sigma.policy.pi05.observation import base_pass
from sigma.studies.benchmark.kept_record import Measured, summary
from sigma.studies.benchmark.measure import Place, alternate, split
from sigma.studies.benchmark.models import (
    as_lerobot,
    base_of,
    device_of,
    features_of,
    material_of,
    normalisation_of,
    plain_lora,
)
from sigma.studies.benchmark.project import Project
from sigma.training.trainer import Trainer


def recorded_views(shards: Shards, count: int) -> list[RobotObservation]:
    """What a robot would give at ``count`` recorded decisions, those of test episodes first, again from the first where
    there are fewer."""
    order = np.argsort(shards.window_split != "test", kind="stable")
    rows = np.resize(shards.window_frames[order, -1], count)
    pictures = shards.images(rows).permute(0, 1, 3, 4, 2).numpy()
    traces = np.concatenate([shards.frame_trace[rows], shards.frame_state[rows][:, None]], axis=1)
    return [
        RobotObservation(
            images=dict(zip(shards.meta["cameras"], pictures[index], strict=True)),
            state=shards.frame_state[row],
            task=shards.tasks[shards.frame_task[row]],
            trace=traces[index],
        )
        for index, row in enumerate(rows)
    ]


def action_steps(meta: dict[str, Any]) -> int:
    """The most control steps that Sigma may execute of a plan: a divisor of the history's stride within the horizon."""
    stride, horizon = meta["history_stride"], meta["horizon"]
    return max(steps for steps in range(1, min(stride, horizon) + 1) if stride % steps == 0)


class Decisions:
    """The controllers on the same recorded views, and the prefix pass of the base alone."""

    def __init__(self, project: Project):
        self.project, shards = project, project.shards()
        self.views = recorded_views(shards, project.settings.decision.decisions)
        self.taken = action_steps(shards.meta)

    def _controller(self, base: Base) -> BaseController:
        features = features_of(self.project)
        return BaseController(
            base,
            n_action_steps=self.taken,
            decoding=features["action"],
            samples=features["samples"],
            seed=features["seed"],
            normalisation=normalisation_of(self.project),
        )

    def base(self) -> BaseController:
        """The frozen π0.5."""
        return self._controller(base_of(self.project))

    def plain_lora(self) -> BaseController:
        """π0.5 under LoRA on language model and action expert, not merged."""
        base = base_of(self.project)
        plain_lora(self.project, base).requires_grad_(False).eval()
        return self._controller(base)

    def sigma(self) -> SigmaController:
        """Sigma under its adapter."""
        root, dtype = self.project.root, getattr(torch, features_of(self.project)["dtype"])
        vla = SigmaTelepathyVLA.from_base(
            base_policy=base_of(self.project),
            lora_dir=root / "models/sigma",
            device=device_of(self.project),
            dtype=dtype,
        )
        return self._under_adapter(vla)

    def untrained(self, *, late: bool = False) -> SigmaController:
        """Sigma with ``base.branch: frozen`` and untrained weights, which take the time of trained ones; ``late`` has
        adapters and FiLM in the last third of the layers alone and shares the others with the frozen pass."""
        parameters, material = self.project.parameters, material_of(self.project)
        updates = {"base": parameters.base.model_copy(update={"branch": "frozen"})}
        if late:
            depth = len(material.base.policy.model.paligemma_with_expert.paligemma.model.language_model.layers)
            first = depth - max(1, depth // 3)
            changes = {"from_layer": first, "layers": [-1], "factor_tokens": 0, "state_tokens": 0}
            updates["telepathy"] = parameters.telepathy.model_copy(update=changes)
        trainer = Trainer(material, parameters.model_copy(update=updates))
        model = trainer.build().requires_grad_(False).eval()
        config = read_config(self.project.root / "models/sigma")
        config |= {"branch": "frozen", "sizes": trainer.sizes.to_dict()}
        return self._under_adapter(SigmaTelepathyVLA(model, material.base, config).eval())

    def _under_adapter(self, vla: SigmaTelepathyVLA) -> SigmaController:
        root = self.project.root
        return SigmaController(
            vla,
            adapter=SigmaTelepathyAdapter(**self.project.parameters.adapter.model_dump()),
            calibration=root / "models/adapter_calibration.json",
            n_action_steps=self.taken,
        )

    def prefix(self, base: BaseController) -> Callable[[], float]:
        """Seconds of a pass over the prefix of a decision whose image tokens and prompt were made before, the mean."""
        builder = base.builder
        with torch.no_grad():
            prepared = [live_observation(builder, [view]) for view in self.views]

        @torch.no_grad()
        def measure() -> float:
            started = time.perf_counter()
            for observation in prepared:
                base_pass(builder.base.policy, observation)
            return (time.perf_counter() - started) / len(prepared)

        return as_lerobot(measure)

    def seconds(self, acting: BaseController | SigmaController) -> Callable[[], float]:
        """Seconds of a decision, the mean over the views."""

        def measure() -> float:
            started = time.perf_counter()
            self.play(acting)
            return (time.perf_counter() - started) / len(self.views)

        return as_lerobot(measure)

    def play(self, acting: BaseController | SigmaController) -> list[np.ndarray]:
        """Decide at every view as in one episode; returns the plans, in the robot's units."""
        acting.reset([0])
        return [acting.act([view], [0])[0] for view in self.views]

    def parts(self, acting: BaseController | SigmaController) -> dict[str, float]:
        """Seconds of a decision by part; ``inputs and outputs`` are resize, prompt, memory and units."""
        places = sigma_places(acting) if isinstance(acting, SigmaController) else base_places(acting)
        found = split(as_lerobot(lambda: self.play(acting)), places, "inputs and outputs")
        return {name: seconds / len(self.views) for name, seconds in found.items()}


def base_places(acting: BaseController) -> list[Place]:
    """Where the parts of a decision of the base happen."""
    return [
        (acting.builder, "encode_images", "vision"),
        (controller, "base_pass", "prefix"),
        (controller, "deterministic_action", "action"),
    ]


def sigma_places(acting: SigmaController) -> list[Place]:
    """Where the parts of a decision of Sigma happen."""
    vla = acting.vla

    def action(*_: Any, adapters: bool, **__: Any) -> str:
        return "adapted action" if adapters else "frozen action"

    return [
        (vla.builder, "encode_images", "vision"),
        (vla.model, "frozen_pass", "frozen prefix"),
        (vla, "_base_action", action),
        (vla.model, "adapted_pass", "adapted prefix"),
        (vla.model, "forward", "heads"),
        (acting.adapter, "execute", "adapter"),
        (runtime, "feature_distance", "adapter"),
        (runtime, "text_distance", "adapter"),
    ]


def decision(project: Project) -> Measured:
    """Seconds of a decision of Sigma, and of the base with one prefix pass more."""
    decisions = Decisions(project)
    return _with_prefix(decisions, decisions.sigma())


def decision_frozen_branch(project: Project) -> Measured:
    """The same with the frozen branch, where one action is integrated and not two."""
    decisions = Decisions(project)
    return _with_prefix(decisions, decisions.untrained())


def _with_prefix(decisions: Decisions, own: SigmaController) -> Measured:
    base = decisions.base()
    sides = {"own": decisions.seconds(own), "base": decisions.seconds(base), "prefix": decisions.prefix(base)}
    values = alternate(sides, decisions.project.effort)
    peer = [one + more for one, more in zip(values["base"], values["prefix"], strict=True)]
    return Measured(
        values["own"],
        peer,
        {"branch": own.vla.config["branch"], "split": decisions.parts(own)},
        {"split": decisions.parts(base), "base": summary(values["base"]), "prefix": summary(values["prefix"])},
    )


def _against(decisions: Decisions, own: SigmaController, peer: BaseController) -> Measured:
    values = alternate({"own": decisions.seconds(own), "peer": decisions.seconds(peer)}, decisions.project.effort)
    return Measured(values["own"], values["peer"], {"split": decisions.parts(own)}, {"split": decisions.parts(peer)})


def decision_against_base(project: Project) -> Measured:
    """Seconds of a decision of Sigma and of the frozen base."""
    decisions = Decisions(project)
    return _against(decisions, decisions.sigma(), decisions.base())


def decision_against_plain_lora(project: Project) -> Measured:
    """Seconds of a decision of Sigma and of the base under plain LoRA."""
    decisions = Decisions(project)
    return _against(decisions, decisions.sigma(), decisions.plain_lora())


def decision_late_layers(project: Project) -> Measured:
    """Seconds of a decision of Sigma, frozen branch and adapters in late layers alone, and of the frozen base."""
    decisions = Decisions(project)
    return _against(decisions, decisions.untrained(late=True), decisions.base())


FIGURES: dict[str, Callable[[Project], Measured]] = {
    "decision": decision,
    "decision_frozen_branch": decision_frozen_branch,
    "decision_against_base": decision_against_base,
    "decision_against_plain_lora": decision_against_plain_lora,
    "decision_late_layers": decision_late_layers,
}
