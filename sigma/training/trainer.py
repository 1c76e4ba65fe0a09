"""From parameters to a trained Sigma: builds the model, runs its phases, resumes an interrupted training.

With the frozen base branch there is one phase: LoRA on the language model and the heads learn residuals of the frozen
base's action. With the adapted branch there are two. First LoRA on language model and action expert learns by flow
matching, together with the part of the telepathy path that the backbone reads. Both are then frozen, and the rest of
the heads learns residuals of the adapted policy's deterministic action.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma.parameters import Parameters
from sigma.parameters.telepathy import TelepathyParameters
from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import TelepathyHeads, build_heads
from sigma.policy.model.model_folder import base_digest
from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.pi05.placement import compile_layers
from sigma.shared.errors import SigmaError
from sigma.shared.seeding import seed_from
from sigma.training.batches import WindowBatches, adapted_actions, motion_rms
from sigma.training.loop import Curve, Phase, PhaseResult
from sigma.training.objectives import FlowObjective, ResidualObjective, TauControl
from sigma.training.setup import check_autocast, inputs_key, schedule, sections, split_windows, views
from sigma.training.state import Scratch


@dataclass(frozen=True)
class TrainingResult:
    """A trained model, and how its training went.

    Attributes:
        base_digest: of the base's tensors at the end.
        steps: optimizer steps of all phases.
        selected: step of the residual phase whose weights the model has, and ``validation`` the error there.
        trainable: parameters that ever had a gradient.
        speed: of this run's steps, by phase.
    """

    model: SigmaModel
    base_digest: str
    material: WindowBatches
    branch: str
    sizes: TelepathySizes
    curves: list[Curve]
    steps: int
    selected: int
    validation: float
    trainable: int
    speed: dict[str, list[dict[str, float]]]


def telepathy_sizes(batches: WindowBatches, parameters: TelepathyParameters) -> TelepathySizes:
    """Sizes of the heads from ``telepathy`` in params.yaml, the base and the data.

    Raises:
        SigmaError: a layer does not exist, or ``from_layer`` lies behind the first layer that the heads read.
    """
    meta, base = batches.shards.meta, batches.base
    depth = len(base.policy.model.paligemma_with_expert.paligemma.model.language_model.layers)
    read = tuple(sorted(layer % depth for layer in parameters.layers if -depth <= layer < depth))
    if len(read) != len(parameters.layers) or len(set(read)) != len(read):
        legal = f"distinct integers from {-depth} to {depth - 1}"
        raise SigmaError(f"params.yaml: telepathy.layers: found {parameters.layers}; legal: {legal}")
    if parameters.from_layer > read[0]:
        raise SigmaError(
            f"params.yaml: telepathy.from_layer: found {parameters.from_layer}; legal: 0 to {read[0]}, the "
            f"first layer that the heads read (telepathy.layers, of {depth} layers)"
        )
    return TelepathySizes(
        width=batches.pooled.shape[2],
        layers=depth,
        pools=batches.pooled.shape[1],
        state_dim=base.state_dim,
        action_dim=base.action_dim,
        horizon=meta["horizon"],
        chunk=meta["chunk"],
        history=meta["history"],
        trace=meta["trace"],
        inner=parameters.width,
        factors=parameters.factors,
        factor_dim=parameters.factor_dim,
        state_tokens=parameters.state_tokens,
        factor_tokens=parameters.factor_tokens,
        head_width=parameters.head_width,
        read_layers=read,
        film=parameters.film,
        memory=parameters.memory,
        factor_source=parameters.factor_source,
        read_base_action=parameters.read_base_action,
        architecture=parameters.architecture,
        from_layer=parameters.from_layer,
    )


def needs_expert(parameters: Parameters) -> bool:
    """Whether a training runs the action expert: flow matching does, residuals of cached actions do not."""
    return parameters.base.branch == "adapted" or parameters.loss.flow > 0


class Trainer:
    """Runs one training described by ``train``, ``lora``, ``telepathy``, ``loss``, ``base.branch`` and
    ``machine.compile``."""

    def __init__(self, batches: WindowBatches, parameters: Parameters):
        self.material, self.parameters = batches, parameters
        self.train, self.lora = parameters.train, parameters.lora
        self.telepathy, self.losses = parameters.telepathy, parameters.loss
        self.branch = parameters.base.branch
        self.parts = split_windows(batches)
        batches.views = views(self.train)
        check_autocast(self.train, batches)
        if self.branch == "adapted" and not self.train.flow_steps:
            raise SigmaError("params.yaml: train.flow_steps: found 0 with base.branch adapted; legal: integer ≥ 1")
        if self.branch == "adapted" and not self.train.lora_learning_rate:
            raise SigmaError(
                "params.yaml: train.lora_learning_rate: found 0 with base.branch adapted, whose flow phase trains "
                "LoRA; legal: > 0"
            )
        if self.losses.flow and not self.train.lora_learning_rate:
            raise SigmaError(
                f"params.yaml: loss.flow: found {self.losses.flow} with train.lora_learning_rate 0, where nothing "
                "learns from it; legal: 0"
            )
        if self.branch == "adapted" and self.losses.flow:
            raise SigmaError(
                f"params.yaml: loss.flow: found {self.losses.flow} with base.branch adapted, whose LoRA is trained "
                "before the residuals; legal: 0"
            )
        if self.train.gradient_checkpointing and (self.branch == "adapted" or self.losses.flow):
            raise SigmaError(
                "params.yaml: train.gradient_checkpointing: found true with flow matching, whose action expert reads "
                "a cache that checkpointing cannot keep; legal: false, or base.branch frozen with loss.flow 0"
            )
        self.sizes = telepathy_sizes(batches, self.telepathy)

    def key(self) -> str:
        """Digest of every input: a checkpoint of anything else is never resumed."""
        return inputs_key(self.material, sections(self.parameters), f"residual on the {self.branch} base")

    def flow_key(self) -> str:
        """Digest of what the flow phase depends on: trainings that differ only elsewhere share one flow phase.

        The parts that it trains are built before the residual heads, so that their initial values do not depend on
        these.
        """
        values = {
            "train": self.train.model_dump(exclude={"steps"}),
            "lora": self.lora.model_dump(),
            "telepathy": self.telepathy.model_dump(exclude={"head_width", "layers", "read_base_action"}),
            "loss": self.losses.model_dump(include={"tau", "tau_band"}),  # what _flow_phase reads
        }
        return inputs_key(self.material, values, "flow phase")

    def build(self) -> SigmaModel:
        """LoRA and heads on the base, at their initial values: the model's outputs are the base's."""
        expert = needs_expert(self.parameters)
        if self.parameters.machine.compile:
            compile_layers(self.material.base.policy)
        adapted = lora.attach(
            self.material.base.policy,
            rank=self.lora.rank,
            alpha=self.lora.alpha,
            dropout=self.lora.dropout,
            towers=("language", "expert") if expert else ("language",),
            projections=self.lora.projections,
            from_layer=self.sizes.from_layer,
            seed=seed_from(self.train.seed, "lora") % 2**63,
        )
        heads = build_heads(self.sizes, self.material.meta["token_rms"], seed_from(self.train.seed, "heads") % 2**63)
        if isinstance(heads, TelepathyHeads) and heads.path.motion_encoder is not None:
            heads.path.motion_encoder.get_buffer("rms").copy_(motion_rms(self.material, self.parts["train"]))
        model = SigmaModel(adapted, heads.to(self.material.builder.device))
        if self.train.gradient_checkpointing:
            language_model = model.policy.model.paligemma_with_expert.paligemma.model.language_model
            language_model.gradient_checkpointing_enable({"use_reentrant": False})
        return model.train()

    def run(self, scratch: Scratch) -> TrainingResult:
        """Train every phase, resuming from ``scratch`` where it holds a state of these inputs."""
        model, batches = self.build(), self.material
        if self.train.cache_vision:
            batches.cache_vision(np.concatenate(list(self.parts.values())), self.train.batch)
        saved = scratch.load() or {}
        adapter = {name: parameter for name, parameter in sorted(model.adapted.named_parameters()) if ".lora_" in name}
        if not self.train.lora_learning_rate:
            # B stays zero, so the backbone is the base's; and no gradient of LoRA's enters the clipped norm.
            for parameter in adapter.values():
                parameter.requires_grad_(False)
            adapter = {}
        curves: list[Curve] = []
        steps = trained = 0
        speed: dict[str, list[dict[str, float]]] = {}
        before: dict[str, torch.nn.Parameter] = {}
        if self.branch == "adapted":
            before = {f"heads.{name}": parameter for name, parameter in model.heads.before_pass().items()}
            phase = self._flow_phase(model, adapter, before)
            # A saved residual phase carries the flow phase before it; without any state another training may have it.
            finished = saved if saved.get("phase") == "residual" else None
            if not saved:
                finished = scratch.kept(self.flow_key())
            result = self._run_phase(phase, scratch, saved, {}, finished)
            curves, steps, speed = [result.curve], self.train.flow_steps, {"flow": result.speed}
            # A phase that an earlier run finished has no optimizer here that could count.
            trained = finished["flow_trained"] if finished else result.trained
            for parameter in (adapter | before).values():
                parameter.requires_grad_(False)
        phase = self._residual_phase(model, {} if self.branch == "adapted" else adapter)
        carried: dict[str, Any] = {}
        if curves:
            learned = {name: parameter.detach().clone() for name, parameter in (adapter | before).items()}
            carried = {"adapter": learned, "flow_curve": [curves[0].train, curves[0].validation]}
            carried["flow_trained"] = trained
            if finished is None:
                scratch.keep(self.flow_key(), carried)
        result = self._run_phase(phase, scratch, saved, carried)
        return TrainingResult(
            model.eval(),
            base_digest(model.policy),
            batches,
            self.branch,
            self.sizes,
            [*curves, result.curve],
            steps + self.train.steps,
            result.selected,
            result.validation,
            trained + result.trained,
            speed | {"residual": result.speed},
        )

    def _run_phase(
        self,
        phase: Phase,
        scratch: Scratch,
        saved: dict[str, Any],
        carried: dict[str, Any],
        finished: dict[str, Any] | None = None,
    ) -> PhaseResult:
        if finished is not None:
            # With no step left, run() takes over these weights and this curve.
            phase.step = phase.schedule.steps
            phase.averaged = phase.best["tensors"] = finished["adapter"]
            phase.curve.train, phase.curve.validation = finished["flow_curve"]
        elif saved.get("phase") == phase.objective.name:
            phase.load_state(saved["state"])
        return phase.run(scratch, carried, self.train.batch)

    def _flow_phase(
        self, model: SigmaModel, adapter: dict[str, torch.nn.Parameter], before: dict[str, torch.nn.Parameter]
    ) -> Phase:
        control = TauControl(self.losses.tau, self._tau_norm(), self.losses.tau_band)
        objective = FlowObjective(model, self.material, self.train, self.parts, control)
        groups = [(adapter, self.train.lora_learning_rate)]
        if before:
            groups.append((before, self.train.learning_rate))
        return Phase(objective, groups, schedule(self.train, self.train.flow_steps))

    def _tau_norm(self) -> float:
        return self.telepathy.tau_norm or (self.sizes.factors * self.sizes.factor_dim) ** 0.5

    def _residual_phase(self, model: SigmaModel, adapter: dict[str, torch.nn.Parameter]) -> Phase:
        batches = self.material
        head_base: Callable[[np.ndarray], Tensor] = batches.base_action
        if self.branch == "adapted":
            windows = np.concatenate(list(self.parts.values()))
            order = np.full(len(batches.split), -1)
            order[windows] = np.arange(len(windows))
            model.eval()
            # The adapted policy is frozen by now, so that its actions are computed once.
            actions = adapted_actions(model, batches, windows, self.train.batch)
            model.train()

            def adapted_action(windows: np.ndarray) -> Tensor:
                return actions[torch.from_numpy(order[windows])]

            head_base = adapted_action
        tsac, base = self.losses.tsac, batches.base
        prompt = base.prompter(tsac.bank, np.zeros((len(tsac.bank), base.state_dim), dtype=np.float32))
        # Gradient checkpointing makes embeddings require a gradient; the bank must not keep the graph beyond a step.
        bank = torch.cat([base.text_embedding_mean(prompt), self._instructions()]).detach()
        objective = ResidualObjective(
            model, batches, self.train, self.losses, self.parts, head_base, bank, self._tau_norm()
        )
        heads = {f"heads.{name}": p for name, p in model.heads.named_parameters() if p.requires_grad}
        groups = [(heads, self.train.learning_rate)]
        if adapter:
            groups.append((adapter, self.train.lora_learning_rate))
        return Phase(objective, groups, schedule(self.train, self.train.steps))

    def _instructions(self) -> Tensor:
        """Mean embeddings (tasks, d) of the dataset's instructions; in the bank each is a contrast to the others."""
        base, tasks = self.material.base, self.material.shards.tasks
        return base.text_embedding_mean(base.prompter(tasks, np.zeros((len(tasks), base.state_dim), dtype=np.float32)))
