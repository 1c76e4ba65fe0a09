"""From parameters to a trained Sigma: builds the model, trains it, resumes an interrupted training.

LoRA on language model and action expert, the telepathy path and the maps by which its factors act on the base learn
together, by π0.5's own objective.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sigma.parameters import Parameters
from sigma.parameters.telepathy import TelepathyParameters
from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import build_heads, heads_file, load_heads
from sigma.policy.model.model_folder import base_digest, read_config
from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.model.start import check_sizes
from sigma.policy.model.telepathy import TelepathyPath, present_features
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder
from sigma.shared.seeding import seed_from
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel
from sigma.training.loop import Curve, Phase
from sigma.training.objectives import FlowObjective, TelepathyTargets
from sigma.training.setup import check_autocast, inputs_key, prepare_layers, schedule, sections, views
from sigma.training.state import Scratch


@dataclass(frozen=True)
class TrainingResult[Model: (SigmaModel, FlowModel)]:
    """A trained model, and how its training went.

    Attributes:
        weights_digest: of the policy's own tensors at the end, LoRA's left out.
        steps: optimizer steps.
        selected: step whose weights the model has, and ``validation`` the flow-matching loss there.
        trainable: parameters that ever had a gradient.
        speed: of this run's steps.
    """

    model: Model
    weights_digest: str
    batches: WindowBatches
    curve: Curve
    steps: int
    selected: int
    validation: float
    trainable: int
    speed: list[dict[str, float]]


class ModelTrainer[Model: (SigmaModel, FlowModel)](ABC):
    """Trains one model by flow matching on the windows of ``batches``, whose base is altered in place."""

    kind: str  # part of the key
    frozen_vision = True  # whether the vision tower keeps its weights, so that its tokens can be cached

    def __init__(self, batches: WindowBatches, parameters: Parameters):
        """Raises :class:`SigmaError` where all train windows count nothing."""
        self.batches, self.parameters = batches, parameters
        used = {"train": batches.worth(parameters.loss.traf) > 0, "validation": True}
        self.parts = {name: np.flatnonzero((batches.split == name) & worth) for name, worth in used.items()}
        if not len(self.parts["train"]):
            raise SigmaError(
                "params.yaml: loss.traf.before, loss.traf.autonomous: every train window counts 0; legal: values that "
                "leave some"
            )
        batches.views = views(parameters.train)
        check_autocast(parameters.train, batches.builder.device)

    @abstractmethod
    def build(self) -> Model:
        """What is trained, at its initial values: the model's outputs are the base's."""

    @abstractmethod
    def phase(self, model: Model) -> Phase:
        """The training of ``model`` before its first step."""

    def key(self) -> str:
        """Digest of every input: a checkpoint of anything else is never resumed."""
        return inputs_key(self.batches, sections(self.parameters), self.kind)

    def run(self, scratch: Scratch) -> TrainingResult[Model]:
        """Train, resuming from ``scratch`` where it holds a state of these inputs."""
        train = self.parameters.train
        if train.cache_vision and self.frozen_vision:
            self.batches.cache_vision(np.concatenate(list(self.parts.values())), train.batch)
        model = self.build()
        phase = self.phase(model)
        if saved := scratch.load():
            phase.load_state(saved)
        result = phase.run(scratch, train.batch)
        return TrainingResult(
            model=model.requires_grad_(False).eval(),
            # Every process computes it: where the base's layers are split, all of them gather a tensor together.
            weights_digest=base_digest(model.policy),
            batches=self.batches,
            curve=result.curve,
            steps=train.steps,
            selected=result.selected,
            validation=result.validation,
            trainable=result.trained,
            speed=result.speed,
        )


def telepathy_sizes(batches: WindowBatches, parameters: TelepathyParameters) -> TelepathySizes:
    """Sizes of the heads from ``telepathy`` in params.yaml, the base and the data."""
    meta, base = batches.shards.meta, batches.base
    return TelepathySizes(
        width=batches.pooled.shape[2],
        expert_width=base.policy.model.action_in_proj.out_features,
        views=batches.pooled.shape[1] - 2,
        pools=batches.pooled.shape[1],
        state_dim=base.state_dim,
        action_dim=base.action_dim,
        chunk_size=base.policy.config.chunk_size,
        **{key: meta[key] for key in ("horizon", "chunk", "trace")},
        inner=parameters.width,
        branches=tuple(parameters.branches),
        **parameters.model_dump(exclude={"width", "tau_norm", "branches"}),
    )


class Trainer(ModelTrainer[SigmaModel]):
    """Runs one training described by ``train``, ``lora``, ``telepathy``, ``loss`` and ``machine.compile``."""

    kind = "sigma"

    def __init__(self, batches: WindowBatches, parameters: Parameters, start: Path | None = None):
        """``start`` is the folder of a trained Sigma whose weights are the first ones; None begins with the base.

        Raises :class:`SigmaError` also where ``start`` has other sizes than the parameters, or other units than the
        windows.
        """
        super().__init__(batches, parameters)
        self.start = start
        if start:
            self.kind = f"{self.kind} from {digest_folder(start)}"  # a checkpoint of another start is never resumed
        if start:
            check_sizes(start, parameters, str(start))
        if start and (units := read_config(start)["normalisation"]) != batches.meta["normalisation"]:
            raise SigmaError(
                f"{start}: normalisation: the start has other quantiles of state and action than these windows "
                f"({units['action']['q99']} against {batches.meta['normalisation']['action']['q99']}); legal: "
                "params.yaml: fetch.dataset, base.statistics and the split as they were when it was trained"
            )
        self.sizes = telepathy_sizes(batches, parameters.telepathy)
        base, texts = batches.base, [*parameters.loss.tsac.bank, *batches.shards.tasks]
        # The dataset's own instructions too: each is a contrast to the others.
        self.bank = base.prompter(texts, np.zeros((len(texts), base.state_dim), dtype=np.float32))

    def build(self) -> SigmaModel:
        parameters, policy = self.parameters, self.batches.base.policy
        prepare_layers(policy, parameters)
        seed = parameters.train.seed
        adapted = lora.attach(policy, **parameters.lora.model_dump(), seed=seed_from(seed, "lora") % 2**63)
        heads = build_heads(self.sizes, self.batches.meta["token_rms"], seed_from(seed, "heads") % 2**63)
        if self.start:
            lora.fill(adapted, self.start)
            load_heads(heads, heads_file(self.start))
        else:
            measure_inputs(heads.path, self.batches, self.parts["train"], parameters.train.batch)
        return SigmaModel(adapted, heads.to(self.batches.builder.device)).train()

    def phase(self, model: SigmaModel) -> Phase:
        batches, train = self.batches, self.parameters.train
        adapter = model.trained()
        if not train.lora_learning_rate:
            # B stays zero, so the backbone is the base's; and no gradient of LoRA's enters the clipped norm.
            for parameter in adapter.values():
                parameter.requires_grad_(False)
            adapter = {}
        heads = {f"heads.{name}": parameter for name, parameter in model.heads.named_parameters()}
        groups = [(heads, train.learning_rate), (adapter, train.lora_learning_rate)]
        bank = batches.base.text_embedding_mean(self.bank)
        objective = FlowObjective(
            model, batches, train, self.parameters.loss, self.parts, TelepathyTargets(bank, self._tau_norm())
        )
        return Phase(objective, [group for group in groups if group[0]], schedule(train))

    def _tau_norm(self) -> float:
        return self.parameters.telepathy.tau_norm or (self.sizes.factors * self.sizes.factor_dim) ** 0.5


def measure_inputs(path: TelepathyPath, batches: WindowBatches, train: np.ndarray, batch: int) -> None:
    """Take centre and spread of everything that the telepathy path standardises from the train windows."""
    shards, views, changes, motions, presents = batches.shards, [], [], [], []
    for episode in np.unique(shards.window_episode[train]):
        reads = shards.memory_reads(train[shards.window_episode[train] == episode]).max()
        views.append(batches.frame_views[torch.from_numpy(batches.memory_frames[int(episode)][:reads])])
        changes.append(views[-1].diff(dim=0))
    read, changed = torch.cat(views), torch.cat(changes)
    # Episodes of a single decision are never read; the decisions themselves are the next best.
    path.views.measure(read if len(read) else batches.frame_views[torch.from_numpy(shards.window_frame[train])])
    if len(changed):
        path.changes.measure(changed)
    with torch.no_grad():
        for start in range(0, len(train), batch):
            observation, _ = batches.observation(train[start : start + batch])
            motions.append(observation.motion.cpu())
            if path.present is not None:
                presents.append(present_features(observation, path.sizes.present).cpu())
    if path.motion is not None:
        path.motion.measure(torch.cat(motions))
    if path.present is not None:
        path.present.measure(torch.cat(presents))
