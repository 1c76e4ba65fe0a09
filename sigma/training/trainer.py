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
from torch import Tensor, nn

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
from sigma.training.objectives import FlowObjective, ResidualObjective, WindowObjective, evaluating
from sigma.training.setup import check_autocast, illegal, inputs_key, schedule, sections, split_windows, views
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
        **{key: meta[key] for key in ("horizon", "chunk", "history", "trace")},
        inner=parameters.width,
        read_layers=read,
        **parameters.model_dump(exclude={"width", "layers", "tau_norm"}),
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
        self._check()
        self.sizes = telepathy_sizes(batches, self.telepathy)

    def _check(self) -> None:
        """Refuse parameters that are legal each by itself and not together."""
        train, flow, adapted = self.train, self.losses.flow, self.branch == "adapted"
        if adapted and not train.flow_steps:
            raise illegal("train.flow_steps", 0, "with base.branch adapted", "integer ≥ 1")
        if adapted and not train.lora_learning_rate:
            reason = "with base.branch adapted, whose flow phase trains LoRA"
            raise illegal("train.lora_learning_rate", 0, reason, "> 0")
        if flow and not train.lora_learning_rate:
            raise illegal("loss.flow", flow, "with train.lora_learning_rate 0, where nothing learns from it", "0")
        if adapted and flow:
            raise illegal(
                "loss.flow", flow, "with base.branch adapted, whose LoRA is trained before the residuals", "0"
            )
        if train.gradient_checkpointing and (adapted or flow):
            reason = "with flow matching, whose action expert reads a cache that checkpointing cannot keep"
            legal = "false, or base.branch frozen with loss.flow 0"
            raise illegal("train.gradient_checkpointing", "true", reason, legal)

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
            **self.lora.model_dump(),
            towers=("language", "expert") if expert else ("language",),
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
        adapter = lora.named_parameters(model.adapted)
        if not self.train.lora_learning_rate:
            # B stays zero, so the backbone is the base's; and no gradient of LoRA's enters the clipped norm.
            _freeze(adapter)
            adapter = {}
        results: list[PhaseResult] = []
        carried: dict[str, Any] = {}
        trained = 0
        if self.branch == "adapted":
            flow, carried = self._run_flow(model, adapter, scratch, saved)
            results, trained, adapter = [flow], carried["flow_trained"], {}
        phase = self._residual_phase(model, adapter)
        if saved.get("phase") == "residual":
            phase.load_state(saved["state"])
        residual = phase.run(scratch, carried, self.train.batch)
        results.append(residual)
        return TrainingResult(
            model=model.eval(),
            # Every process computes it: where the base's layers are split, all of them gather a tensor together.
            base_digest=base_digest(model.policy),
            material=batches,
            branch=self.branch,
            curves=[result.curve for result in results],
            steps=self.train.steps + (self.train.flow_steps if carried else 0),
            selected=residual.selected,
            validation=residual.validation,
            trainable=trained + residual.trained,
            speed={result.curve.name: result.speed for result in results},
        )

    def _run_flow(
        self, model: SigmaModel, adapter: dict[str, nn.Parameter], scratch: Scratch, saved: dict[str, Any]
    ) -> tuple[PhaseResult, dict[str, Any]]:
        """Run or take over the flow phase and freeze what it trained; gives what the residual phase's state carries."""
        before = {f"heads.{name}": parameter for name, parameter in model.heads.before_pass().items()}
        phase = self._flow_phase(model, adapter, before)
        # A saved residual phase carries the flow phase before it; without any state another training may have it.
        finished = saved if saved.get("phase") == "residual" else None
        if not saved:
            finished = scratch.kept(self.flow_key())
        if finished:
            # With no step left, run() takes over these weights and this curve.
            phase.step = phase.schedule.steps
            phase.averaged = phase.best["tensors"] = finished["adapter"]
            phase.curve.train, phase.curve.validation = finished["flow_curve"]
        elif saved:
            phase.load_state(saved["state"])
        result = phase.run(scratch, {}, self.train.batch)
        carried = {
            "adapter": {name: parameter.detach().clone() for name, parameter in (adapter | before).items()},
            "flow_curve": [result.curve.train, result.curve.validation],
            # A phase that an earlier run finished has no optimizer here that could count.
            "flow_trained": finished["flow_trained"] if finished else result.trained,
        }
        if not finished:
            scratch.keep(self.flow_key(), carried)
        _freeze(adapter | before)
        return result, carried

    def _flow_phase(
        self, model: SigmaModel, adapter: dict[str, nn.Parameter], before: dict[str, nn.Parameter]
    ) -> Phase:
        objective = FlowObjective(model, self.material, self.train, self.parts, self.losses, self._tau_norm())
        return self._phase(objective, (adapter, self.train.lora_learning_rate), (before, self.train.learning_rate))

    def _phase(self, objective: WindowObjective, *groups: tuple[dict[str, nn.Parameter], float]) -> Phase:
        steps = self.train.flow_steps if objective.name == "flow" else self.train.steps
        return Phase(objective, [group for group in groups if group[0]], schedule(self.train, steps))

    def _tau_norm(self) -> float:
        return self.telepathy.tau_norm or (self.sizes.factors * self.sizes.factor_dim) ** 0.5

    def _residual_phase(self, model: SigmaModel, adapter: dict[str, nn.Parameter]) -> Phase:
        batches, base, tsac = self.material, self.material.base, self.losses.tsac
        head_base: Callable[[np.ndarray], Tensor] = batches.base_action
        if self.branch == "adapted":
            # The adapted policy is frozen by now, so that its actions are computed once.
            windows = np.concatenate(list(self.parts.values()))
            with evaluating(model):
                actions = adapted_actions(model, batches, windows, self.train.batch)
            of_window = actions.new_full((len(batches.split), *actions.shape[1:]), torch.nan)
            of_window[torch.from_numpy(windows)] = actions

            def adapted_action(windows: np.ndarray) -> Tensor:
                return of_window[torch.from_numpy(windows)]

            head_base = adapted_action

        def embeddings(texts: list[str]) -> Tensor:
            prompt = base.prompter(texts, np.zeros((len(texts), base.state_dim), dtype=np.float32))
            return base.text_embedding_mean(prompt)

        # The dataset's own instructions too: each is a contrast to the others. Gradient checkpointing makes embeddings
        # require a gradient; the bank must not keep the graph beyond a step.
        bank = torch.cat([embeddings(tsac.bank), embeddings(batches.shards.tasks)]).detach()
        objective = ResidualObjective(
            model, batches, self.train, self.parts, self.losses, head_base, bank, self._tau_norm()
        )
        heads = {f"heads.{name}": p for name, p in model.heads.named_parameters() if p.requires_grad}
        return self._phase(objective, (heads, self.train.learning_rate), (adapter, self.train.lora_learning_rate))


def _freeze(parameters: dict[str, nn.Parameter]) -> None:
    for parameter in parameters.values():
        parameter.requires_grad_(False)
