"""What a decision and a training step of Sigma compute, at a base's own sizes and on made-up inputs.

:mod:`sigma.tools.footprint` runs this on the meta device to count memory, :mod:`sigma.tools.rehearse` on the CPU to
measure it; so what is planned is what is measured.

Legend: B windows, V cameras, S samples of an action, R reads of memory.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import build_heads
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.description import ACTION, STATE
from sigma.policy.pi05.observation import Observation, Past
from sigma.training.setup import prepare_layers
from sigma.training.trainer import telepathy_sizes

Job = Callable[[], Any]


class Workload:
    """Sigma on a frozen policy, built as the trainer builds it, and jobs like those of the stages.

    A job's inputs are made when the job is asked for; what it computes is made when the job is called.

    Args:
        policy: π0.5 of the base's sizes; LoRA is attached to it.
        parameters: those of params.yaml.
        reads: R, reads of memory before a window's decision.
    """

    def __init__(self, policy: PI05Policy, parameters: Parameters, reads: int):
        self.config, self.parameters, self.reads = policy.config, parameters, reads
        self.paligemma = policy.model.paligemma_with_expert.paligemma
        self.device = policy.model.action_in_proj.weight.device
        mapping = parameters.window.cameras
        self.views = sum(mapping.get(camera, camera) is not None for camera in self.config.image_features)
        # The trainer's own sizes, from the little that it reads of windows and base.
        material: Any = SimpleNamespace(
            shards=SimpleNamespace(meta=parameters.window.model_dump()),
            base=SimpleNamespace(
                policy=policy,
                state_dim=self.config.input_features[STATE].shape[0],
                action_dim=self.config.output_features[ACTION].shape[0],
            ),
            pooled=torch.empty(0, self.views + 2, self.paligemma.config.text_config.hidden_size),
        )
        self.sizes = telepathy_sizes(material, parameters.telepathy)
        prepare_layers(policy, parameters)
        with self.device:
            adapted = lora.attach(policy, **parameters.lora.model_dump(), seed=0)
            self.model = SigmaModel(adapted, build_heads(self.sizes, 1.0, seed=0))

    def observation(self, batch: int) -> Observation:
        """B random observations of these sizes on the policy's device."""
        sizes, length = self.sizes, self.config.tokenizer_max_length
        tokens = (self.config.image_resolution[0] // self.paligemma.config.vision_config.patch_size) ** 2

        def numbers(*shape: int) -> Tensor:
            return torch.randn(batch, *shape).clamp(-1, 1)

        with torch.random.fork_rng(devices=[]), self.device:
            torch.manual_seed(0)
            roles = torch.arange(length) % 4  # frame words, instruction, state and padding in turn
            return Observation(
                vision=numbers(self.views, tokens, sizes.width),
                tokens=torch.ones(batch, length, dtype=torch.int64),
                mask=torch.ones(batch, length, dtype=torch.bool),
                groups=roles.to(torch.int8).repeat(batch, 1),
                state=numbers(sizes.state_dim),
                text=numbers(sizes.width),
                motion=numbers(sizes.trace, sizes.state_dim),
                pooled=numbers(sizes.pools, sizes.width),
            )

    def past(self, batch: int) -> Past:
        """What memory reads before B decisions, each of an episode of its own, as most of a training step are."""
        sizes, reads = self.sizes, self.reads
        with self.device:
            return Past(
                views=torch.ones(batch, reads, 2 * sizes.views, sizes.width),
                states=torch.ones(batch, reads, sizes.state_dim),
                text=torch.ones(batch, reads, sizes.width),
                episode=torch.arange(batch),
                reads=torch.full((batch,), reads),
            )

    @torch.no_grad()
    def vision(self, batch: int) -> Tensor:
        """Run the vision tower over the images of B decisions; returns their image tokens."""
        side = self.config.image_resolution[0]
        return prefix.vision_tokens(
            self.model.policy, torch.zeros(batch, self.views, 3, side, side, device=self.device)
        )

    def _noise(self, batch: int, draws: int) -> Tensor:
        return torch.zeros(batch, draws, self.config.chunk_size, self.config.max_action_dim, device=self.device)

    def base_decision(self, batch: int, samples: int, *, steps: int = 1) -> Job:
        """B decisions of the frozen base: its prefix, and S actions of ``steps`` Euler steps over it.

        Memory does not depend on ``steps``: each step frees what the one before it took.
        """
        observation, noise = self.observation(batch), self._noise(batch, samples)

        @torch.no_grad()
        def job() -> Tensor:
            encoded = self.model.eval().frozen_pass(observation).encoded
            return prefix.integrate(self.model.policy, encoded, noise, steps)

        return job

    def sigma_decision(self, batch: int, samples: int, *, steps: int = 1) -> Job:
        """B decisions of Sigma at scale 1: memory unrolled, its adapted prefix, and S actions over it."""
        observation, past, noise = self.observation(batch), self.past(batch), self._noise(batch, samples)

        @torch.no_grad()
        def job() -> Tensor:
            passed = self.model.eval().adapted_pass(observation, past)
            return prefix.integrate(self.model.policy, passed.encoded, noise, steps, passed.steering)

        return job

    def both_decisions(self, batch: int, samples: int) -> Job:
        """The base's decisions and Sigma's, between which an adapter chooses a scale."""
        observation, past, noise = self.observation(batch), self.past(batch), self._noise(batch, samples)

        @torch.no_grad()
        def job() -> tuple[Tensor, Tensor]:
            frozen = self.model.eval().frozen_pass(observation)
            base = prefix.integrate(self.model.policy, frozen.encoded, noise, 1)
            passed = self.model.adapted_pass(observation.with_frozen_features(frozen.pooled), past)
            return base, prefix.integrate(self.model.policy, passed.encoded, noise, 1, passed.steering)

        return job

    def training_step(self, batch: int) -> Job:
        """Forward and backward pass of training over B windows."""
        loss = self._flow_loss(batch, self.parameters.train.flow_draws)

        def job() -> None:
            self.model.train()
            loss().backward()

        return job

    def validation(self, batch: int) -> Job:
        """The loss of B validation windows, without a gradient."""
        loss = self._flow_loss(batch, self.parameters.train.validation_draws)

        @torch.no_grad()
        def job() -> Tensor:
            self.model.eval()
            return loss()

        return job

    def _flow_loss(self, batch: int, draws: int) -> Callable[[], Tensor]:
        observation, past, noise = self.observation(batch), self.past(batch), self._noise(batch, draws)
        with self.device:
            actions = torch.zeros(batch, self.config.chunk_size, self.sizes.action_dim)
            time = torch.ones(batch, draws)

        def loss() -> Tensor:
            passed = self.model.adapted_pass(observation, past)
            encoded, telepathy = passed.encoded, passed.telepathy
            flow = prefix.flow_matching_loss(self.model.policy, encoded, actions, noise, time, passed.steering)
            assert telepathy is not None
            forgetting = self.model.heads.path.forgetting(telepathy.memory, past)
            return flow.sum() + telepathy.semantic.sum() + telepathy.intent_view.sum() + forgetting.sum()

        return loss
