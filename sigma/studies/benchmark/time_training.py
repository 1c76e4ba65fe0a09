"""A training step: Sigma's against plain LoRA's, by the same trainer and by LeRobot's own update function.

All sides take the same windows of the same batch size from the shards, on bases of their own with LoRA of the same
rank on the same layers. A step begins with the choice of its windows and ends with the optimizer. Image tokens of
Sigma and of plain LoRA are computed once before the first step where ``train.cache_vision`` says so; LeRobot's
function computes them in every step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.studies.benchmark.lerobot_policy import policy_batch, preprocessor
from sigma.studies.benchmark.measure import Measured, NotMeasured, Side, compare
from sigma.studies.benchmark.project import Project, lerobot_kernels, train_windows
from sigma.studies.study.train.flow_trainer import FlowTrainer
from sigma.training.batches import WindowBatches, load_batches
from sigma.training.sampler import WindowSampler
from sigma.training.trainer import Trainer

LEROBOTS_DRAWS = 1  # of noise and time a window: its function has no other number
_METERS = ("loss", "grad_norm", "lr", "update_s", "gpu_mem_gb")


def plain_lora(batches: WindowBatches, parameters: Parameters) -> FlowTrainer:
    """The trainer of plain LoRA."""
    return FlowTrainer(batches, parameters, "lora")


class TrainerSteps:
    """Optimizer steps as one of the project's trainers makes them, with ``draws`` draws of noise a window."""

    def __init__(
        self, project: Project, new_trainer: Callable[[WindowBatches, Parameters], Trainer | FlowTrainer], draws: int
    ):
        data = project.root / "data"
        self.train = project.parameters.train.model_copy(update={"accumulation": 1, "flow_draws": draws})
        self.batches = load_batches(
            data / "base.json",
            data / "shards",
            data / "features",
            data / "predictions/baseline.parquet",
            device=project.device(),
        )
        trainer: Any = new_trainer(self.batches, project.parameters.model_copy(update={"train": self.train}))
        if self.train.cache_vision:
            self.batches.cache_vision(np.concatenate(list(trainer.parts.values())), self.train.batch)
        self.phase = trainer.phase(trainer.build())
        self.trained = sum(weight.numel() for weight in self.phase.named.values())

    def step(self) -> None:
        """One optimizer step."""
        self.phase._optimize()
        self.phase.step += 1

    def side(self) -> Side:
        """What is timed."""
        details = {"trained": self.trained, "vision_cached": self.train.cache_vision}
        return Side(self.step, details=details | {"batch": self.train.batch, "noise_draws": self.train.flow_draws})


class LeRobotSteps:
    """Steps of LeRobot's ``update_policy`` on the base under plain LoRA; step n takes the windows of our step n."""

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

    def side(self) -> Side:
        """What is timed."""
        details = {"trained": self.trained, "vision_cached": False}
        return Side(self.step, details=details | {"batch": self.train.batch, "noise_draws": LEROBOTS_DRAWS})


def measure_training_step(project: Project) -> Measured:
    """A step of Sigma, which trains LoRA and the telepathy path, against a step of plain LoRA with as many draws."""
    draws = project.parameters.train.flow_draws
    own, peer = (TrainerSteps(project, new_trainer, draws) for new_trainer in (Trainer, plain_lora))
    return compare(own.side(), peer.side(), project.settings)


def measure_training_step_against_lerobot(project: Project) -> Measured:
    """A step of Sigma against a step of plain LoRA by LeRobot's function, one draw a window."""
    own, peer = TrainerSteps(project, Trainer, LEROBOTS_DRAWS), LeRobotSteps(project)
    return compare(own.side(), peer.side(), project.settings)
