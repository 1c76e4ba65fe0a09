"""The public model: Sigma on top of a π0.5 policy, with the interface that the source's card shows.

Legend: B batch, T steps of observation (the last is now), V cameras, S side of an image, D state dim, A action dim,
C chunk, H horizon, K factors, F factor dim, P pooled vectors, d backbone width, w inner width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor, nn

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import heads_file
from sigma.policy.model.model_folder import load_model, load_prompter, read_config, weights_dtype
from sigma.policy.model.proposal import Decisions, Proposal
from sigma.policy.model.telepathy import Memory
from sigma.policy.pi05.base import Base
from sigma.policy.pi05.configuration import ACTION, STATE, fit_joints, normalisations
from sigma.policy.pi05.inputs import InputBuilder, Normalisation, trace_before
from sigma.policy.pi05.observation import Observation, Past
from sigma.policy.pi05.placement import place
from sigma.shared.errors import SigmaError
from sigma.shared.resize import to_resolution

__all__ = ["SigmaTelepathyAdapter", "SigmaTelepathyVLA"]


class SigmaTelepathyVLA(nn.Module):
    """A frozen π0.5 with LoRA and telepathy heads: the base's action and Sigma's residual on it.

    Actions are in normalised units, as π0.5's own are; :meth:`to_robot` converts them to the robot's units.
    """

    def __init__(self, model: SigmaModel, base: Base, config: Mapping[str, Any]):
        super().__init__()
        self.model, self.config = model, dict(config)
        self.normalisation = Normalisation.from_json(config["normalisation"])
        self.builder = InputBuilder(base, self.normalisation)

    @classmethod
    def from_base(
        cls,
        *,
        base_policy: Base | PI05Policy,
        lora_dir: str | Path,
        telepathy_heads_path: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Put a trained Sigma on its base; LoRA is inserted into ``base_policy`` in place.

        Args:
            base_policy: LeRobot's policy, or what :func:`sigma.policy.pi05.base.load_base` returned.
            lora_dir: the folder that finetune wrote (``models/sigma``), with ``adapter_model.safetensors`` or the
                source's ``adapter_model.bin``.
            telepathy_heads_path: the heads, ``.safetensors`` or the source's ``.pt``; by default those in ``lora_dir``.
            device: where to compute.
            dtype: of the base; must be the one it was loaded with, and Sigma trained on. The heads compute in float32.

        Raises:
            SigmaError: a missing file, a base other than the one that Sigma was trained on, or tensors that do not fit.
        """
        folder = Path(lora_dir)
        config = read_config(folder)
        policy = base_policy.policy if isinstance(base_policy, Base) else base_policy
        actual, wanted = weights_dtype(policy), str(dtype).removeprefix("torch.")
        if actual != wanted:
            raise SigmaError(f"dtype: found {wanted}, but the base policy was loaded in {actual}; legal: {actual}")
        sizes = config["sizes"]
        fit_joints(policy.config, {STATE: sizes["state_dim"], ACTION: sizes["action_dim"]}, "base_policy")
        policy = place(policy, device).eval().requires_grad_(False)
        policy.config.device = str(device)
        model = load_model(policy, folder, config, Path(telepathy_heads_path or heads_file(folder)))
        base = Base(
            policy=policy,
            prompter=load_prompter(folder, config),
            cameras=tuple(config["cameras"]),
            state_dim=sizes["state_dim"],
            action_dim=sizes["action_dim"],
            chunk_size=policy.config.chunk_size,
            resolution=policy.config.image_resolution[0],
            num_steps=config["num_steps"],
            modes=normalisations(policy.config),
            statistics=None,
            reference=config["base"],
        )
        return cls(model, base, config).eval()

    def to_robot(self, action: Tensor) -> Tensor:
        """Normalised actions (..., A) in the robot's units."""
        return self.normalisation.action.unnormalise(action)

    def forward(
        self,
        batch: Mapping[str, Any] | None = None,
        *,
        vis_obs: Tensor | None = None,
        robot_state: Tensor | None = None,
        texts: Sequence[str] | None = None,
        use_telepathy: bool = True,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor | None]:
        """Base action, residuals and telepathy at the last step of an observation.

        Args:
            batch: instead of the next three, a π0.5 batch as LeRobot's pre-processor makes it with the statistics that
                Sigma was trained with; it holds no past.
            vis_obs: (B, T, V, 3, S, S) or, with one camera, (B, T, 3, S, S); float in [0, 1]; T control steps, of which
                the first is the episode's first, for memory reads it from there.
            robot_state: (B, T, D) in the robot's units.
            texts: B instructions.
            use_telepathy: False gives the base alone; every residual is zero.
            noise: (B, Tc, A') the base's initial noise; by default its deterministic action.

        Returns:
            ``base_action_vector`` (B, A), ``base_action_chunk`` (B, C, A), ``base_action_trajectory`` (B, H, A), the
            same three as ``telepathy_residual_*``, ``telepathy_factors`` (B, K, F), ``semantic_factors`` (B, d),
            ``intent`` and ``memory`` (B, w), ``alignment`` (B,). Actions are normalised; a residual is Sigma's action
            minus the base's from the same noise, so that adding it gives Sigma's action at scale 1.
        """
        if batch is not None:
            observation = self._from_batch(batch)
            remembered = self.model.heads.path.start(observation.text)
        elif vis_obs is None or robot_state is None or texts is None:
            raise SigmaError("give either a π0.5 batch or vis_obs, robot_state and texts")
        else:
            observation, remembered = self._from_sequence(vis_obs, robot_state, texts)
        addresses = [("call", row) for row in range(len(observation.state))]
        proposal = self.propose(observation, remembered, addresses, use_sigma=use_telepathy, noise=noise)
        if not use_telepathy:
            proposal = replace(proposal, action=proposal.base)
        return proposal.card_interface(self.config["sizes"]["chunk"])

    @torch.no_grad()
    def propose(
        self,
        observation: Observation,
        remembered: Memory | Past,
        addresses: Sequence[tuple],
        *,
        use_base: bool = True,
        use_sigma: bool = True,
        noise: Tensor | None = None,
    ) -> Proposal:
        """The base's action and Sigma's, from prepared inputs.

        Args:
            observation: B decisions.
            remembered: memory and intent before them, or the past that they are to be unrolled from.
            addresses: name the decisions whose action needs seeded samples.
            use_base: False spares the frozen base's pass, where nothing of it is executed or measured.
            use_sigma: False spares Sigma's pass.
            noise: (B, Tc, A') the initial noise instead of the deterministic action's.
        """
        decisions = self.decisions(observation, remembered, addresses, noise)
        return Proposal(
            decisions.base() if use_base else None,
            decisions.action() if use_sigma else None,
            decisions.telepathy if use_sigma else None,
        )

    def decisions(
        self,
        observation: Observation,
        remembered: Memory | Past,
        addresses: Sequence[tuple],
        noise: Tensor | None = None,
    ) -> Decisions:
        """The same decisions, of which nothing is computed before it is asked for."""
        return Decisions(self.model, self.config, observation, remembered, addresses, noise)

    def _from_sequence(self, vis_obs: Tensor, robot_state: Tensor, texts: Sequence[str]) -> tuple[Observation, Memory]:
        """The last step as an observation, and what memory has read before it, as in training."""
        views = len(self.config["cameras"])
        if vis_obs.ndim == 5 and views == 1:
            vis_obs = vis_obs[:, :, None]
        state_dim = self.config["sizes"]["state_dim"]
        if vis_obs.ndim != 6 or vis_obs.shape[2:4] != (views, 3):
            raise SigmaError(f"vis_obs: found shape {tuple(vis_obs.shape)}; legal: [B, T, {views}, 3, H, W]")
        if tuple(robot_state.shape) != (*vis_obs.shape[:2], state_dim) or len(texts) != len(vis_obs):
            shapes = (tuple(robot_state.shape), len(texts))
            legal = f"[{len(vis_obs)}, {vis_obs.shape[1]}, {state_dim}] and {len(vis_obs)} texts"
            raise SigmaError(f"robot_state and texts: found {shapes}; legal: {legal}")
        if not (torch.isfinite(vis_obs).all() and vis_obs.min() >= 0 and vis_obs.max() <= 1):
            raise SigmaError("vis_obs: legal values lie in [0, 1]")
        batch, steps = vis_obs.shape[:2]
        times = [*range(0, steps - 1, self.config["memory_stride"]), steps - 1]
        images = (vis_obs[:, times] * 255).round().to(torch.uint8)
        images = to_resolution(images, self.builder.base.resolution).flatten(0, 1)
        vision = self.builder.encode_images(images).unflatten(0, (batch, len(times)))
        states = robot_state.float().cpu().numpy()
        trace = np.stack([trace_before(rows, self.config["sizes"]["trace"]) for rows in states])
        observation = self.builder.observation(vision[:, -1], states[:, -1], texts, trace)
        remembered = self.model.heads.path.start(observation.text)
        for index, time in enumerate(times[:-1]):
            earlier = self.builder.observation(vision[:, index], states[:, time], texts)
            remembered = self.model.heads.path.read(remembered, earlier)
        return observation, remembered

    def _from_batch(self, batch: Mapping[str, Any]) -> Observation:
        """A π0.5 batch: images in [0, 1], a normalised state, and the prompt that LeRobot's processor wrote."""
        for key in (*self.config["cameras"], STATE, "task"):
            if key not in batch:
                raise SigmaError(f"batch: {key!r} is missing; it is given by the policy's pre-processor")
        images = torch.stack([batch[name] for name in self.config["cameras"]], dim=1)
        pixels = to_resolution((images.float() * 255).round().to(torch.uint8), self.builder.base.resolution)
        texts = []
        for prompt in batch["task"]:
            head, _, tail = prompt.partition(", State: ")
            if not head.startswith("Task: ") or not tail:
                raise SigmaError(f"batch: 'task': {prompt!r} is not a π0.5 prompt")
            texts.append(head.removeprefix("Task: "))
        states = batch[STATE].float().cpu().numpy()
        vision = self.builder.encode_images(pixels)
        # A batch holds no past: the robot counts as having stood still.
        motion = np.zeros((len(texts), self.config["sizes"]["trace"], states.shape[-1]), dtype=np.float32)
        observation = self.builder.normalised_observation(vision, states, texts, motion)
        tokens = batch.get("observation.language.tokens")
        if tokens is not None and not torch.equal(observation.tokens.cpu(), tokens.cpu()):
            raise SigmaError("batch: its tokens are not those of Sigma's tokenizer and statistics")
        return observation
