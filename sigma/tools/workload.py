"""What a decision and a training step of Sigma compute, at a base's own sizes and on made-up inputs.

:mod:`sigma.tools.footprint` runs this on the meta device to count memory, :mod:`sigma.tools.rehearse` on the CPU to
measure it; so what is planned is what is measured.

Legend: B windows, V cameras, S samples of an action.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from sigma.parameters import Parameters
from sigma.policy.model import lora
from sigma.policy.model.decision import Decision, SigmaModel
from sigma.policy.model.heads import build_heads
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.description import ACTION, STATE
from sigma.policy.pi05.observation import Observation
from sigma.training.trainer import needs_expert, telepathy_sizes

Job = Callable[[], Any]


class Workload:
    """Sigma on a frozen policy, built as the trainer builds it, and jobs like those of the stages.

    A job's inputs are made when the job is asked for; what it computes is made when the job is called.

    Args:
        policy: π0.5 of the base's sizes; LoRA is attached to it.
        parameters: those of params.yaml.
    """

    def __init__(self, policy: PI05Policy, parameters: Parameters):
        self.config, self.parameters = policy.config, parameters
        self.paligemma = policy.model.paligemma_with_expert.paligemma
        self.device = policy.model.action_in_proj.weight.device
        self.adapted_branch = parameters.base.branch == "adapted"
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
        with self.device:
            adapted = lora.attach(
                policy,
                **parameters.lora.model_dump(),
                towers=("language", "expert") if needs_expert(parameters) else ("language",),
                from_layer=self.sizes.from_layer,
                seed=0,
            )
            self.model = SigmaModel(adapted, build_heads(self.sizes, 1.0, seed=0))
        if parameters.train.gradient_checkpointing:  # acts in training mode alone
            self.paligemma.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})

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
                history=numbers(sizes.history - 1, sizes.pools, sizes.width),
                present=torch.ones(batch, sizes.history - 1, dtype=torch.bool),
                motion=numbers(sizes.trace, sizes.state_dim),
                now=numbers(sizes.pools, sizes.width),
            )

    @torch.no_grad()
    def vision(self, batch: int) -> Tensor:
        """Run the vision tower over the images of B decisions; returns their image tokens."""
        side = self.config.image_resolution[0]
        return prefix.vision_tokens(
            self.model.policy, torch.zeros(batch, self.views, 3, side, side, device=self.device)
        )

    def decision(self, batch: int, samples: int, *, sigma: bool = True, steps: int = 1) -> Job:
        """B decisions without a gradient: the frozen prefix, S actions of ``steps`` Euler steps, and Sigma's pass.

        Memory does not depend on ``steps``: each step frees what the one before it took.
        """
        observation = self.observation(batch)
        noise = torch.zeros(batch, samples, self.config.chunk_size, self.config.max_action_dim, device=self.device)

        @torch.no_grad()
        def job() -> Tensor | Decision:
            self.model.eval()
            frozen = self.model.frozen_pass(observation)
            action = prefix.integrate(self.model.policy, frozen.encoded, noise, steps)
            if not sigma:
                return action
            adapted = self.model.adapted_pass(observation, cache=self.adapted_branch, frozen=frozen)
            if self.adapted_branch:
                action = prefix.integrate(self.model.policy, adapted.encoded, noise, steps)
            return self.model(observation, action[:, 0, : self.sizes.horizon], passed=adapted)

        return job

    def residual_step(self, batch: int) -> Job:
        """Forward and backward pass of residual training over B windows."""
        observation, flow = self.observation(batch), self.parameters.loss.flow > 0
        action = torch.zeros(batch, self.sizes.horizon, self.sizes.action_dim, device=self.device)

        def job() -> None:
            self.model.train()
            # With the adapted branch the weights of the flow phase are frozen by then.
            with torch.set_grad_enabled(not self.adapted_branch):
                adapted = self.model.adapted_pass(observation, cache=flow)
            decision = self.model(observation, action, passed=adapted)
            loss = torch.stack([residual.sum() for residual in decision.residuals.values()]).sum()
            if (telepathy := decision.telepathy) is not None:
                loss = loss + telepathy.semantic.sum() + telepathy.intent_view.sum()
            if flow:
                loss = loss + self._flow_loss(observation)
            loss.backward()

        return job

    def flow_step(self, batch: int) -> Job:
        """Forward and backward pass of flow matching over B windows."""
        observation = self.observation(batch)

        def job() -> None:
            self.model.train()
            self._flow_loss(observation).backward()

        return job

    def first_step(self, batch: int) -> Job:
        """A step of the training's first phase: flow matching with the adapted branch, else residual training."""
        return self.flow_step(batch) if self.adapted_branch else self.residual_step(batch)

    def _flow_loss(self, observation: Observation) -> Tensor:
        batch, draws, config = len(observation.state), self.parameters.train.flow_draws, self.config
        with self.device:
            actions = torch.zeros(batch, config.chunk_size, self.sizes.action_dim)
            noise = torch.zeros(batch, draws, config.chunk_size, config.max_action_dim)
            time = torch.ones(batch, draws)
        encoded = self.model.adapted_pass(observation).encoded
        return prefix.flow_matching_loss(self.model.policy, encoded, actions, noise, time).sum()
