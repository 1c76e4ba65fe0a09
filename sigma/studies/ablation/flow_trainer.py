"""Fine-tuning by flow matching alone, what a user would do instead of Sigma: plain LoRA, or all of the weights."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.policy.pi05.placement import compile_layers
from sigma.shared.errors import SigmaError
from sigma.shared.seeding import seed_from
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel
from sigma.training.loop import Curve, Phase
from sigma.training.objectives import FlowObjective
from sigma.training.setup import check_autocast, inputs_key, schedule, sections, split_windows, views
from sigma.training.state import Scratch


@dataclass(frozen=True)
class FlowResult:
    """A fine-tuned policy, and how its training went; attributes are those of
    :class:`~sigma.training.trainer.TrainingResult`."""

    model: FlowModel
    material: WindowBatches
    curves: list[Curve]
    steps: int
    selected: int
    validation: float
    trainable: int
    speed: dict[str, list[dict[str, float]]]


class FlowTrainer:
    """Runs ``train.flow_steps`` steps of flow matching; the base of ``material`` is altered in place.

    ``kind`` ``lora`` adapts language model and action expert, ``full`` trains every weight, vision tower included.
    """

    def __init__(self, material: WindowBatches, parameters: Parameters, kind: Literal["lora", "full"]):
        self.material, self.parameters, self.kind = material, parameters, kind
        self.train = parameters.train
        self.parts = split_windows(material)
        material.views = views(self.train)
        check_autocast(self.train, material)
        for key, legal in (("flow_steps", "integer ≥ 1"), ("lora_learning_rate", "> 0")):
            if not getattr(self.train, key):
                raise SigmaError(f"params.yaml: train.{key}: found 0 with flow matching alone; legal: {legal}")
        if self.train.gradient_checkpointing:
            raise SigmaError(
                "params.yaml: train.gradient_checkpointing: found true with flow matching, whose action expert reads "
                "a cache that checkpointing cannot keep; legal: false"
            )

    def key(self) -> str:
        """Digest of every input: a checkpoint of anything else is never resumed."""
        return inputs_key(self.material, sections(self.parameters), f"flow matching, {self.kind}")

    def build(self) -> FlowModel:
        """What is trained, at its initial values: the model's outputs are the base's."""
        policy = self.material.base.policy
        if self.parameters.machine.compile:
            compile_layers(policy)
        if self.kind == "full":
            model = FlowModel(policy)
            for parameter in model.trained().values():
                parameter.requires_grad_(True)
            return model.train()
        adapted = lora.attach(
            policy,
            **self.parameters.lora.model_dump(),
            towers=("language", "expert"),
            seed=seed_from(self.train.seed, "lora") % 2**63,
        )
        return FlowModel(adapted).train()

    def run(self, scratch: Scratch) -> FlowResult:
        """Train, resuming from ``scratch`` where it holds a state of these inputs."""
        model, train = self.build(), self.train
        if train.cache_vision and not model.whole:
            self.material.cache_vision(np.concatenate(list(self.parts.values())), train.batch)
        objective = FlowObjective(model, self.material, train, self.parts)
        phase = Phase(objective, [(model.trained(), train.lora_learning_rate)], schedule(train, train.flow_steps))
        if saved := scratch.load():
            phase.load_state(saved["state"])
        result = phase.run(scratch, {}, train.batch)
        model.requires_grad_(False).eval()
        measured = (result.selected, result.validation, result.trained, {"flow": result.speed})
        return FlowResult(model, self.material, [result.curve], train.flow_steps, *measured)
