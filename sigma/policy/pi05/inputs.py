"""From recorded or live observations to the policy's inputs: the same code offline and on a robot.

Legend: B batch, V cameras, S side of an image in pixels, n tokens an image, D state dim, d backbone width, R control
steps of the trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigma.policy.pi05 import prefix
from sigma.policy.pi05.base import Base, Quantiles
from sigma.policy.pi05.description import ACTION, STATE
from sigma.policy.pi05.observation import Observation


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Quantiles that a run normalises state and action with: those of the checkpoint or of the dataset."""

    state: Quantiles
    action: Quantiles

    def to_json(self) -> dict:
        return {STATE: self.state.to_json(), ACTION: self.action.to_json()}

    @classmethod
    def from_json(cls, value: dict) -> "Normalisation":
        return cls(Quantiles.from_json(value[STATE]), Quantiles.from_json(value[ACTION]))


class InputBuilder:
    """Builds :class:`Observation` from images, raw states and instructions."""

    def __init__(self, base: Base, normalisation: Normalisation):
        self.base, self.normalisation = base, normalisation

    @property
    def device(self) -> torch.device:
        """Where the policy computes now: LeRobot may move it after it was loaded."""
        return next(self.base.policy.parameters()).device

    def encode_images(self, images: Tensor, *, gradient: bool = False) -> Tensor:
        """Image tokens (B, V, n, d) of uint8 images (B, V, 3, S, S) at the policy's resolution.

        ``gradient`` is needed only where the vision tower itself is trained.
        """
        with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
            pixels = images.to(self.device, non_blocking=True).to(torch.float32) / 255.0
            return prefix.vision_tokens(self.base.policy, pixels)

    def observation(
        self, vision: Tensor, states: np.ndarray, texts: Sequence[str], trace: np.ndarray | None = None
    ) -> Observation:
        """Join image tokens (B, V, n, d), raw states (B, D) and instructions.

        ``trace`` (B, R, D) holds the raw states of the control steps before this one, oldest first; without it R is 0.
        """
        normalise = self.normalisation.state.normalise
        normalised = normalise(np.asarray(states, dtype=np.float32))
        motion = None
        if trace is not None:
            motion = normalise(np.asarray(trace, dtype=np.float32)) - normalised[:, None]
        return self.normalised_observation(vision, normalised, texts, motion)

    def normalised_observation(
        self, vision: Tensor, normalised: np.ndarray, texts: Sequence[str], motion: np.ndarray | None = None
    ) -> Observation:
        """The same from float32 states (B, D) that are normalised already, and from the motion (B, R, D).

        The motion is the normalised trace minus the present state.
        """
        prompt = self.base.prompter(texts, normalised)
        if motion is None:
            motion = np.zeros((len(texts), 0, normalised.shape[-1]), dtype=np.float32)
        return Observation(
            vision=vision.to(self.device, non_blocking=True),
            tokens=prompt.tokens.to(self.device),
            mask=prompt.mask.to(self.device),
            groups=prompt.groups.to(self.device),
            state=torch.from_numpy(normalised).to(self.device),
            text=self.base.text_embedding_mean(prompt),
            motion=torch.from_numpy(motion).to(self.device),
        )


def trace_before(states: np.ndarray, steps: int) -> np.ndarray:
    """The ``steps`` states (steps, D) before the last of ``states`` (n, D), oldest first.

    Before the first state the robot counts as having stood still, as in the window stage.
    """
    states = np.asarray(states, dtype=np.float32)
    return states[np.maximum(np.arange(len(states) - 1 - steps, len(states) - 1), 0)]
