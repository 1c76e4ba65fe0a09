"""A frozen base as a robot's controller: camera images and joint state in, joint targets out.

Legend: B robots stepped together, V cameras, H×W image size, S the policy's resolution, D joints, n executed steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sigma.data.resize import to_resolution
from sigma.errors import SigmaError
from sigma.policy.base import ACTION, STATE, Base
from sigma.policy.prefix import assemble, encode, integrate, text_embeddings, vision_tokens
from sigma.seeding import normal


class BaseController:
    """Runs a base in closed loop, many robots in one batch.

    Args:
        base: the loaded base; its own statistics normalise state and action.
        execute: how many steps of each predicted chunk are executed before the next look.
        samples: 0 integrates from zero noise; n ≥ 1 averages n actions from seeded noise.
        seed: seed of that noise, addressed by robot and decision.
    """

    def __init__(self, base: Base, *, execute: int, samples: int = 1, seed: int = 0):
        if not 1 <= execute <= base.chunk_size:
            raise SigmaError(f"execute is {execute}; legal: 1 to the base's chunk size {base.chunk_size}")
        if base.statistics is None:
            raise SigmaError(
                "the base was published without statistics; its actions cannot be turned into joint targets"
            )
        self.base, self.execute, self.samples, self.seed = base, execute, samples, seed
        self._decisions: dict[int, int] = {}

    def reset(self, indices: Sequence[int]) -> None:
        """Begin an episode for these robots."""
        for index in indices:
            self._decisions[index] = 0

    @torch.no_grad()
    def act(self, observations: Sequence[dict[str, Any]], indices: Sequence[int]) -> np.ndarray:
        """Joint targets ``[B, n, D]`` in raw units for robots that each see ``{"images", "state", "task"}``.

        ``images`` maps camera names (full feature names, or their last part) to uint8 ``[H, W, 3]``; ``state`` is
        float32 ``[D]`` in raw units; ``task`` is the instruction.
        """
        base, policy = self.base, self.base.policy
        device = next(policy.parameters()).device
        states = base.statistics[STATE].normalise(np.stack([one["state"] for one in observations]).astype(np.float32))
        prompt = base.prompter([one["task"] for one in observations], states)
        images = torch.stack([self._images(one["images"]) for one in observations]).to(device).float() / 255
        text = text_embeddings(policy, prompt.tokens.to(device))
        encoded = encode(policy, assemble(vision_tokens(policy, images), text, prompt.mask.to(device)))
        noise = torch.from_numpy(np.stack([self._noise(index) for index in indices])).to(device)
        actions = integrate(policy, encoded, noise, base.num_steps).mean(dim=1)[:, : self.execute]
        for index in indices:
            self._decisions[index] = self._decisions.get(index, 0) + 1
        return base.statistics[ACTION].unnormalise(actions.float().cpu().numpy())

    def _noise(self, index: int) -> np.ndarray:
        config = self.base.policy.config
        shape = (config.chunk_size, config.max_action_dim)
        if self.samples == 0:
            return np.zeros((1, *shape), dtype=np.float32)
        decision = self._decisions.get(index, 0)
        return np.stack(
            [normal(shape, self.seed, "closed loop", index, decision, draw) for draw in range(self.samples)]
        )

    def _images(self, views: dict[str, np.ndarray]) -> torch.Tensor:
        """The policy's cameras in its order, uint8 ``[V, 3, S, S]``."""
        frames = []
        for camera in self.base.cameras:
            image = views.get(camera, views.get(camera.rsplit(".", 1)[-1]))
            if image is None:
                raise SigmaError(f"the base needs the camera {camera!r}; the robot gives {', '.join(sorted(views))}")
            frames.append(to_resolution(torch.from_numpy(image).permute(2, 0, 1), self.base.resolution))
        return torch.stack(frames)
