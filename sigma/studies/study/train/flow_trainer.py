"""Fine-tuning by flow matching alone, what a user would do instead of Sigma: plain LoRA, or all of the weights."""

from pathlib import Path
from typing import Literal

from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder
from sigma.shared.seeding import seed_from
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel
from sigma.training.loop import Phase
from sigma.training.objectives import FlowObjective
from sigma.training.setup import prepare_layers, schedule
from sigma.training.trainer import ModelTrainer


class FlowTrainer(ModelTrainer[FlowModel]):
    """Sigma's objective on a policy without a telepathy path.

    ``kind`` ``lora`` adapts language model and action expert, ``frames`` too, whose ``batches`` have earlier frames;
    ``full`` trains every weight, vision tower included.
    """

    def __init__(
        self,
        batches: WindowBatches,
        parameters: Parameters,
        kind: Literal["lora", "frames", "full"],
        start: Path | None = None,
    ):
        """``start`` is the folder of a saved LoRA whose weights are the first ones; None begins with the base."""
        super().__init__(batches, parameters)
        self.kind, self.frozen_vision, self.start = f"flow matching, {kind}", kind != "full", start
        if start:
            self.kind = f"{self.kind} from {digest_folder(start)}"  # a checkpoint of another start is never resumed
        if not parameters.train.lora_learning_rate:
            raise SigmaError("params.yaml: train.lora_learning_rate: found 0 with flow matching alone; legal: > 0")

    def build(self) -> FlowModel:
        policy, seed = self.batches.base.policy, self.parameters.train.seed
        prepare_layers(policy, self.parameters)
        if self.frozen_vision:
            adapted = lora.attach(policy, **self.parameters.lora.model_dump(), seed=seed_from(seed, "lora") % 2**63)
            if self.start:
                lora.fill(adapted, self.start)
            return FlowModel(adapted).train()
        model = FlowModel(policy)
        for parameter in model.trained().values():
            parameter.requires_grad_(True)
        return model.train()

    def phase(self, model: FlowModel) -> Phase:
        train = self.parameters.train
        objective = FlowObjective(model, self.batches, train, self.parameters.loss, self.parts)
        return Phase(objective, [(model.trained(), train.lora_learning_rate)], schedule(train))
