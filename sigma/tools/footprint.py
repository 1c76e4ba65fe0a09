"""How much memory Sigma takes on a base, found by running it on the meta device: real classes, real sizes, no numbers.

Every operation of a step runs with shapes alone, while the bytes of all living tensors are counted; so attention,
gradient checkpointing and whatever the heads do are counted as they are, not as a formula says. Left out is what an
allocator adds (rounding, fragmentation) and what a library keeps for itself.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import build_heads, parameter_count
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.description import ACTION, STATE, fit_joints
from sigma.policy.pi05.observation import Observation
from sigma.policy.pi05.placement import large_layers
from sigma.policy.pi05.weights import empty_policy

UNUSED, EXPERT = "language-model heads, unused", ("action expert", "action and time projections")
_ITEM = torch.ops.aten._local_scalar_dense.default


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside the block that are alive, and the most that ever were: ``peak``.

    What exists before, the weights above all, is not counted: pass the modules in. A question about a value, which the
    meta device cannot answer, is answered by no or by zero.
    """

    def __init__(self, *existing: nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self._known = {
            tensor.untyped_storage()._cdata
            for module in existing
            for tensor in (*module.parameters(), *module.buffers())
        }

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is _ITEM and args[0].is_meta:
            return False if args[0].dtype == torch.bool else 0
        for item in tree_iter((args, kwargs)):
            # What comes in from outside the block was there before; what was made inside is known already.
            if isinstance(item, Tensor):
                self._known.add(item.untyped_storage()._cdata)
        output = function(*args, **(kwargs or {}))
        for item in tree_iter(output):
            if isinstance(item, Tensor):
                self._count(item.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.now -= size
        self._known.discard(key)


@dataclass(frozen=True)
class Group:
    """Parameters of one part: how many, and their bytes in the type that the device holds them in."""

    parameters: int
    bytes: int


def _group(*modules: nn.Module | nn.Parameter) -> Group:
    found = {
        id(one): one
        for module in modules
        for one in (module.parameters() if isinstance(module, nn.Module) else [module])
    }
    values = list(found.values())
    return Group(sum(one.numel() for one in values), sum(one.numel() * one.element_size() for one in values))


@dataclass(frozen=True, eq=False)
class Footprint:
    """Sigma on the meta device for a base's configuration and a set of parameters."""

    model: SigmaModel
    config: PI05Config
    views: int
    parameters: Parameters
    frozen: dict[str, Group]
    trainable: dict[str, Group]
    layers: list[Group]  # what several processes can split

    def split(self, processes: int) -> int:
        """Bytes that each of several processes saves by splitting the large layers; one at a time is there whole."""
        sizes = [layer.bytes for layer in self.layers]
        return sum(sizes) - sum(-(-size // processes) for size in sizes) - max(sizes)

    def weights(self, device: str = "cpu", *, expert: bool = True) -> int:
        """Bytes of the frozen base on a device; what :mod:`sigma.policy.pi05.placement` leaves on the CPU counts there."""
        left = set() if device == "cpu" else {UNUSED} if expert else {UNUSED, *EXPERT}
        return sum(group.bytes for name, group in self.frozen.items() if name not in left)

    @property
    def trained(self) -> int:
        """Bytes of LoRA and heads."""
        return sum(group.bytes for group in self.trainable.values())

    def observation(self, batch: int, seed: int | None = None) -> Observation:
        """An observation of these sizes: on the meta device, or with a ``seed`` of random numbers on the CPU."""
        sizes, length = self.model.heads.sizes, self.config.tokenizer_max_length
        tokens = (self.config.image_resolution[0] // self._patch()) ** 2
        device = "meta" if seed is None else "cpu"
        generator = None if seed is None else torch.Generator().manual_seed(seed)

        def numbers(*shape: int) -> Tensor:
            values = torch.zeros(batch, *shape, device=device)
            return values if generator is None else values.normal_(generator=generator).clamp_(-1, 1)

        roles = torch.arange(length, device=device) % 4  # frame words, instruction, state and padding in turn
        return Observation(
            vision=numbers(self.views, tokens, sizes.width),
            tokens=torch.ones(batch, length, dtype=torch.int64, device=device),
            mask=torch.ones(batch, length, dtype=torch.bool, device=device),
            groups=roles.to(torch.int8).repeat(batch, 1),
            state=numbers(sizes.state_dim),
            text=numbers(sizes.width),
            history=numbers(sizes.history - 1, sizes.pools, sizes.width),
            present=torch.ones(batch, sizes.history - 1, dtype=torch.bool, device=device),
            motion=numbers(sizes.trace, sizes.state_dim),
            now=numbers(sizes.pools, sizes.width),
        )

    @property
    def _adapted(self) -> bool:
        return self.parameters.base.branch == "adapted"

    def _patch(self) -> int:
        return self.model.policy.model.paligemma_with_expert.paligemma.config.vision_config.patch_size

    def peak(self, work: Callable[[], Any]) -> int:
        """The most bytes that ``work`` has alive at once beside the weights and its inputs."""
        self.model.zero_grad(set_to_none=True)
        with LiveBytes(self.model) as live:
            kept = work()
        del kept
        self.model.zero_grad(set_to_none=True)
        return live.peak

    def vision(self, batch: int) -> int:
        """Bytes of the vision tower over B decisions' images, its output included; no gradient."""
        side = self.config.image_resolution[0]

        @torch.no_grad()
        def work() -> Tensor:
            return prefix.vision_tokens(self.model.policy, torch.zeros(batch, self.views, 3, side, side, device="meta"))

        return self.peak(work)

    def decision(self, batch: int, draws: int, *, sigma: bool) -> int:
        """Bytes of B decisions without a gradient: the frozen prefix, ``draws`` actions, and Sigma's pass."""
        observation, sizes = self.observation(batch), self.model.heads.sizes
        noise = torch.zeros(batch, draws, self.config.chunk_size, self.config.max_action_dim, device="meta")
        self.model.eval()

        @torch.no_grad()
        def work() -> Any:
            passed = self.model.frozen_pass(observation)
            # Each Euler step frees what the one before it took.
            action = prefix.integrate(self.model.policy, passed.encoded, noise, 1)
            if not sigma:
                return action
            adapted = self.model.adapted_pass(observation, cache=self._adapted, frozen=passed)
            if self._adapted:
                action = prefix.integrate(self.model.policy, adapted.encoded, noise, 1)
            return self.model(observation, action[:, 0, : sizes.horizon], passed=adapted)

        return max(self.peak(work), self.vision(batch))

    def residual_step(self, batch: int) -> int:
        """Bytes of activations and gradients of B windows of residual training."""
        observation, sizes = self.observation(batch), self.model.heads.sizes
        action = torch.zeros(batch, sizes.horizon, sizes.action_dim, device="meta")
        self.train_mode(self.model)

        def work() -> None:
            with torch.set_grad_enabled(not self._adapted):  # there the flow phase's weights are frozen by now
                passed = self.model.adapted_pass(observation, cache=self.parameters.loss.flow > 0)
            decision = self.model(observation, action, passed=passed)
            residuals = decision.residuals
            loss = residuals["vector"].sum() + residuals["chunk"].sum() + residuals["trajectory"].sum()
            if decision.telepathy is not None:
                loss = loss + decision.telepathy.semantic.sum() + decision.telepathy.intent_view.sum()
            if self.parameters.loss.flow:
                loss = loss + self.flow_loss(self.model, observation)
            loss.backward()

        return max(self.peak(work), self.vision(batch))

    def flow_step(self, batch: int) -> int:
        """Bytes of activations and gradients of B windows of flow matching."""
        observation = self.observation(batch)
        self.train_mode(self.model)
        return max(self.peak(lambda: self.flow_loss(self.model, observation).backward()), self.vision(batch))

    def flow_loss(self, model: SigmaModel, observation: Observation) -> Tensor:
        """Flow-matching loss of B windows whose actions and noise are zero, on the observation's device."""
        draws, config = self.parameters.train.flow_draws, self.config
        batch, width = len(observation.state), config.output_features["action"].shape[0]
        with observation.state.device:
            actions = torch.zeros(batch, config.chunk_size, width)
            noise = torch.zeros(batch, draws, config.chunk_size, config.max_action_dim)
            time = torch.ones(batch, draws)
        encoded = model.adapted_pass(observation).encoded
        return prefix.flow_matching_loss(model.policy, encoded, actions, noise, time).sum()

    def train_mode(self, model: SigmaModel) -> None:
        """Put a model into training as the trainer does, with gradient checkpointing where it is asked for."""
        model.train()
        language_model = model.policy.model.paligemma_with_expert.paligemma.model.language_model
        if self.parameters.train.gradient_checkpointing:
            language_model.gradient_checkpointing_enable({"use_reentrant": False})


def attach_lora(policy: Any, parameters: Parameters, *, seed: int) -> Any:
    """LoRA as the trainer attaches it: on the action expert too where flow matching trains it."""
    from sigma.training.trainer import needs_expert

    settings = parameters.lora
    return lora.attach(
        policy,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        towers=("language", "expert") if needs_expert(parameters) else ("language",),
        projections=settings.projections,
        from_layer=parameters.telepathy.from_layer,
        seed=seed,
    )


def build_footprint(config: PI05Config, views: int, parameters: Parameters, joints: int | None = None) -> Footprint:
    """Base, LoRA and heads on the meta device, as the trainer builds them.

    Args:
        config: LeRobot's configuration of the base.
        views: cameras that the window stage keeps.
        parameters: ``base``, ``window``, ``train``, ``lora``, ``telepathy`` and ``loss`` of params.yaml.
        joints: of the robot; None counts with the vectors that the configuration declares.
    """
    from sigma.training.trainer import telepathy_sizes

    config.validate_features()
    if joints is not None:
        fit_joints(config, {STATE: joints, ACTION: joints}, "config.json of the base")
    policy = empty_policy(config, parameters.base.dtype).eval().requires_grad_(False)
    tower = policy.model.paligemma_with_expert
    paligemma, core = tower.paligemma, policy.model
    frozen = {
        "vision tower and projector": _group(paligemma.model.vision_tower, paligemma.model.multi_modal_projector),
        "language model": _group(paligemma.model.language_model),
        EXPERT[0]: _group(tower.gemma_expert.model),
        EXPERT[1]: _group(core.action_in_proj, core.action_out_proj, core.time_mlp_in, core.time_mlp_out),
        UNUSED: _group(paligemma.lm_head, tower.gemma_expert.lm_head),
    }
    layers = [_group(layer) for layer in large_layers(policy)]
    with torch.device("meta"):
        adapted = attach_lora(policy, parameters, seed=0)
    width = paligemma.config.text_config.hidden_size
    meta = {name: getattr(parameters.window, name) for name in ("horizon", "chunk", "history", "trace")}
    base = SimpleNamespace(
        policy=policy,
        state_dim=config.input_features[STATE].shape[0],
        action_dim=config.output_features[ACTION].shape[0],
    )
    pooled = torch.empty(0, views + 2, width, device="meta")
    material: Any = SimpleNamespace(shards=SimpleNamespace(meta=meta), base=base, pooled=pooled)
    sizes = telepathy_sizes(material, parameters.telepathy)
    with torch.device("meta"):
        heads = build_heads(sizes, 1.0, 0)
    trainable = {
        f"LoRA on the {title}": _group(*(p for n, p in adapted.named_parameters() if ".lora_" in n and part in n))
        for title, part in (("language model", ".language_model."), ("action expert", ".gemma_expert."))
    }
    trainable = {name: group for name, group in trainable.items() if group.parameters}
    trainable["heads"] = Group(parameter_count(heads), _group(heads).bytes)
    return Footprint(SigmaModel(adapted, heads), config, views, parameters, frozen, trainable, layers)
