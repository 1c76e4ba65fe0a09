"""A training step: Sigma's flow matching against plain LoRA by LeRobot's own update function.

Both sides take the same windows of the same batch size from the shards, on bases of their own with LoRA of the same
rank on the same layers, and draw noise and time once a window, as LeRobot's function does. A step begins with the
choice of its windows and ends with the optimizer. Sigma's image tokens are computed once before the first step where
``train.cache_vision`` says so; LeRobot's function computes them in every step.
"""

from typing import Any

import numpy as np

from sigma.policy.model import lora
from sigma.studies.benchmark.lerobot_policy import policy_batch, preprocessor
from sigma.studies.benchmark.measure import Measured, NotMeasured, Side, compare
from sigma.studies.benchmark.project import Project, lerobot_kernels, train_windows
from sigma.training.batches import load_batches
from sigma.training.sampler import WindowSampler
from sigma.training.trainer import Trainer

DRAWS = 1  # of noise and time a window: LeRobot's function has no other number
_METERS = ("loss", "grad_norm", "lr", "update_s", "gpu_mem_gb")


class SigmaSteps:
    """Optimizer steps of Sigma's flow phase, as the trainer makes them, with ``DRAWS`` draws a window."""

    def __init__(self, project: Project):
        if project.parameters.base.branch != "adapted":
            raise NotMeasured("base.branch is frozen: Sigma has no flow phase")
        data = project.root / "data"
        self.train = project.parameters.train.model_copy(update={"accumulation": 1, "flow_draws": DRAWS})
        self.material = load_batches(
            data / "base.json",
            data / "shards",
            data / "features",
            data / "predictions/baseline.parquet",
            device=project.device(),
        )
        trainer = Trainer(self.material, project.parameters.model_copy(update={"train": self.train}))
        model = trainer.build()
        if self.train.cache_vision:
            self.material.cache_vision(np.concatenate(list(trainer.parts.values())), self.train.batch)
        adapter = {name: weight for name, weight in sorted(model.adapted.named_parameters()) if ".lora_" in name}
        before = {f"heads.{name}": weight for name, weight in model.heads.before_pass().items()}
        self.phase = trainer._flow_phase(model, adapter, before)
        self.trained = sum(weight.numel() for weight in self.phase.named.values())

    def step(self) -> None:
        """One optimizer step."""
        self.phase._optimize()
        self.phase.step += 1


class LeRobotSteps:
    """Steps of LeRobot's ``update_policy`` on the base under plain LoRA; step n takes the windows of Sigma's step n."""

    def __init__(self, project: Project):
        try:
            from accelerate import Accelerator
            from lerobot.scripts.lerobot_train import update_policy
        except ImportError as error:
            raise NotMeasured(f"LeRobot's trainer cannot be imported: {error}") from None
        from lerobot.utils.logging_utils import AverageMeter, MetricsTracker

        self.train, self.shards, self.base = project.parameters.train, project.shards(), project.base()
        self.windows = train_windows(self.shards)
        self.sampler = WindowSampler(len(self.windows), self.train.batch, self.train.seed)
        self.process = preprocessor(self.base, project.normalisation())
        self.tuned = project.plain_lora(self.base)
        parameters = lora.lora_parameters(self.tuned)
        self.trained = sum(parameter.numel() for parameter in parameters)
        self.optimizer = self.base.policy.config.get_optimizer_preset().build(parameters)
        on_cpu = project.device().type == "cpu"
        self.accelerator = Accelerator(cpu=on_cpu, step_scheduler_with_optimizer=False, mixed_precision="no")
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

    @lerobot_kernels()
    def step(self) -> None:
        """One optimizer step."""
        self.metrics, _ = self.update_policy(
            self.metrics, self.tuned, self.batch(), self.optimizer, self.train.clip, self.accelerator
        )


def measure_training_step(project: Project) -> Measured:
    """A step of the flow phase, which trains LoRA and the telepathy path, against a step of plain LoRA."""
    own, peer = SigmaSteps(project), LeRobotSteps(project)
    both = {"batch": own.train.batch, "noise_draws": DRAWS}
    details = {"trained": own.trained, "vision_cached": own.train.cache_vision}
    return compare(
        Side(own.step, details=both | details),
        Side(peer.step, details=both | {"trained": peer.trained, "vision_cached": False}),
        project.settings,
    )
