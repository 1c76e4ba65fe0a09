"""Fine-tuning by flow matching alone, what a user would do instead of Sigma: plain LoRA, or all of the weights."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.shared.seeding import seed_from
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel
from sigma.training.loop import Curve, Phase
from sigma.training.objectives import FlowObjective
from sigma.training.setup import check_autocast, inputs_key, prepare_layers, schedule, sections, split_windows, views
from sigma.training.state import Scratch


@dataclass(frozen=True)
class FlowResult:
    """A fine-tuned policy, and how its training went; attributes are those of
    :class:`~sigma.training.trainer.TrainingResult`."""

    model: FlowModel
    batches: WindowBatches
    curve: Curve
    steps: int
    selected: int
    validation: float
    trainable: int
    speed: list[dict[str, float]]


class FlowTrainer:
    """Sigma's objective on a policy without a telepathy path; the base of ``batches`` is altered in place.

    ``kind`` ``lora`` adapts language model and action expert, ``full`` trains every weight, vision tower included.
    """

    def __init__(self, batches: WindowBatches, parameters: Parameters, kind: Literal["lora", "full"]):
        self.batches, self.parameters, self.kind = batches, parameters, kind
        self.parts = split_windows(batches)
        batches.views = views(parameters.train)
        check_autocast(parameters.train, batches)
        if not parameters.train.lora_learning_rate:
            raise SigmaError("params.yaml: train.lora_learning_rate: found 0 with flow matching alone; legal: > 0")

    def key(self) -> str:
        """Digest of every input: a checkpoint of anything else is never resumed."""
        return inputs_key(self.batches, sections(self.parameters), f"flow matching, {self.kind}")

    def build(self) -> FlowModel:
        """What is trained, at its initial values: the model's outputs are the base's."""
        policy, seed = self.batches.base.policy, self.parameters.train.seed
        prepare_layers(policy, self.parameters)
        if self.kind == "full":
            model = FlowModel(policy)
            for parameter in model.trained().values():
                parameter.requires_grad_(True)
            return model.train()
        adapted = lora.attach(policy, **self.parameters.lora.model_dump(), seed=seed_from(seed, "lora") % 2**63)
        return FlowModel(adapted).train()

    def phase(self, model: FlowModel) -> Phase:
        """The training of ``model`` before its first step."""
        train = self.parameters.train
        objective = FlowObjective(model, self.batches, train, self.parameters.loss, self.parts)
        return Phase(objective, [(model.trained(), train.lora_learning_rate)], schedule(train))

    def run(self, scratch: Scratch) -> FlowResult:
        """Train, resuming from ``scratch`` where it holds a state of these inputs."""
        model, train = self.build(), self.parameters.train
        if train.cache_vision and not model.whole:
            self.batches.cache_vision(np.concatenate(list(self.parts.values())), train.batch)
        phase = self.phase(model)
        if saved := scratch.load():
            phase.load_state(saved)
        result = phase.run(scratch, train.batch)
        model.requires_grad_(False).eval()
        measured = (result.selected, result.validation, result.trained, result.speed)
        return FlowResult(model, self.batches, result.curve, train.steps, *measured)
