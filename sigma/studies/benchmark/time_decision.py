"""A decision at batch 1, from what a robot gives to joint targets: frozen base, plain LoRA, Sigma.

Plain LoRA has Sigma's rank and layers and untrained weights, which take the time of trained ones. All sides choose
kernels as LeRobot's own commands do, because that is how a robot is run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sigma.data.shards import Shards
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control.controller import BaseController
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.model.vla import SigmaTelepathyVLA
from sigma.studies.benchmark.measure import Measured, Side, compare
from sigma.studies.benchmark.project import Project, lerobot_kernels


def recorded_views(shards: Shards, count: int) -> list[dict[str, Any]]:
    """What a robot would give at ``count`` recorded decisions, those of test episodes first.

    Where there are fewer decisions they begin again.
    """
    order = np.argsort(shards.window_split != "test", kind="stable")
    rows = np.resize(shards.window_frame[order], count)
    pictures = shards.images(rows).permute(0, 1, 3, 4, 2).numpy()
    traces = np.concatenate([shards.frame_trace[rows], shards.frame_state[rows][:, None]], axis=1)
    return [
        {
            "images": dict(zip(shards.meta["cameras"], pictures[index], strict=True)),
            "state": shards.frame_state[row],
            "task": shards.tasks[shards.frame_task[row]],
            "trace": traces[index],
        }
        for index, row in enumerate(rows)
    ]


def action_steps(meta: dict[str, Any]) -> int:
    """The most control steps that Sigma may execute of a plan: a divisor of memory's stride within the horizon."""
    stride, horizon = meta["memory_stride"], meta["horizon"]
    return max(steps for steps in range(1, min(stride, horizon) + 1) if stride % steps == 0)


def base_controller(project: Project, *, lora: bool = False) -> BaseController:
    """The frozen π0.5; with ``lora`` under LoRA on language model and action expert, not merged."""
    base, features = project.base(), project.features()
    if lora:
        project.plain_lora(base).requires_grad_(False).eval()
    return BaseController(
        base,
        n_action_steps=action_steps(project.shards().meta),
        decoding=features["action"],
        samples=features["samples"],
        seed=features["seed"],
        normalisation=project.normalisation(),
    )


def sigma_controller(project: Project, **bounds: float) -> SigmaController:
    """The trained Sigma under its adapter, or with ``min_scale`` and ``max_scale`` of its own."""
    models = project.root / "models"
    vla = SigmaTelepathyVLA.from_base(
        base_policy=project.base(),
        lora_dir=models / "sigma",
        device=project.device(),
        dtype=getattr(torch, project.features()["dtype"]),
    )
    return SigmaController(
        vla,
        adapter=SigmaTelepathyAdapter(**project.parameters.adapter.model_dump() | bounds),
        calibration=models / "adapter_calibration.json",
        n_action_steps=action_steps(project.shards().meta),
    )


@lerobot_kernels()
def play(controller: BaseController | SigmaController, views: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """Decide at every view as in one episode; returns the plans, in the robot's units."""
    controller.reset([0])
    return [controller.act([view], [0])[0] for view in views]


def _compare(project: Project, own: SigmaController, peer: BaseController) -> Measured:
    views = recorded_views(project.shards(), project.settings.decisions)
    return compare(
        Side(lambda: play(own, views), len(views)), Side(lambda: play(peer, views), len(views)), project.settings
    )


def measure_decision_against_plain_lora(project: Project) -> Measured:
    """A decision of Sigma at scale 1, and one of the base under plain LoRA."""
    return _compare(
        project, sigma_controller(project, min_scale=1.0, max_scale=1.0), base_controller(project, lora=True)
    )


def measure_decision_against_base(project: Project) -> Measured:
    """A decision of Sigma under its adapter, which looks at the base's too, and one of the frozen base."""
    return _compare(project, sigma_controller(project), base_controller(project))
