"""The frozen π0.5 that Sigma stands on, loaded from a reference and checked against it.

A base is a LeRobot policy folder: ``config.json``, ``model.safetensors``, the pre-processor's files with the
statistics, and, where it has its own, a tokenizer folder.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.configs import NormalizationMode
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from sigma.policy.pi05.base_origin import resolve_base
from sigma.policy.pi05.configuration import normalisations
from sigma.policy.pi05.description import ACTION, STATE, description_digest, read_facts
from sigma.policy.pi05.observation import masked_mean
from sigma.policy.pi05.placement import large_layers, place
from sigma.policy.pi05.prefix import text_embeddings
from sigma.policy.pi05.prompt import INSTRUCTION, Prompt, Prompter
from sigma.policy.pi05.weights import load_strictly
from sigma.shared.errors import SigmaError
from sigma.shared.quantiles import Quantiles


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen π0.5, ready to run."""

    policy: PI05Policy  # in evaluation mode, no tensor trainable
    prompter: Prompter
    cameras: tuple[str, ...]  # image feature names in the policy's order (V of them)
    state_dim: int  # sizes of observation.state and action: the robot's joints
    action_dim: int
    chunk_size: int  # actions predicted at once
    resolution: int  # side of its square images in pixels
    num_steps: int  # Euler steps of its sampler
    modes: dict[str, NormalizationMode]  # by which its state and action are normalised
    statistics: dict[str, Quantiles] | None  # what these map to −1 and 1; None where it was published without
    reference: dict[str, Any]  # what describe_base returned

    def text_embedding_mean(self, prompt: Prompt) -> Tensor:
        """Mean frozen embedding ``[B, d]`` of the instruction's tokens (not the state's, not the frame words)."""
        device = next(self.policy.parameters()).device
        with torch.no_grad():
            embedded = text_embeddings(self.policy, prompt.tokens.to(device)).float()
            return masked_mean(embedded, prompt.groups.to(device) == INSTRUCTION)


def load_base(
    reference: dict[str, Any],
    *,
    device: str = "cpu",
    dtype: str = "float32",
    download: bool = False,
    split: Callable[[Iterable[torch.nn.Module], str], None] | None = None,
) -> Base:
    """Load the base that a reference describes, and nothing else: every digest is checked.

    Args:
        reference: what :func:`~sigma.policy.pi05.description.describe_base` returned when the base was fetched.
        download: whether the Hub may be asked for a snapshot that its cache lacks.
        split: called with the :func:`large_layers` and the device before any of them is moved there, such as
            :func:`sigma.compute.processes.split_layers`.

    Raises:
        SigmaError: the base is gone, altered, incomplete, relative, or its weights are not finite.
    """
    folder = resolve_base(reference["source"], reference["revision"], download=download)
    origin = reference.get("tokenizer_origin", {})
    if origin is not None and not (isinstance(origin, dict) and {"source", "revision"} <= origin.keys()):
        raise SigmaError(f"{folder}: its record does not say where the tokenizer is; fetch the base again (dvc repro)")
    joints = {STATE: reference["state_dim"], ACTION: reference["action_dim"]}
    config, tokenizer, statistics, description = read_facts(folder, origin, joints, verify=False, download=download)
    for key, value in description.items():
        if reference.get(key) != value:
            raise SigmaError(f"{folder}: its {key} is not the one that was recorded; fetch the base again (dvc repro)")
    if reference["digest"] != description_digest(description, reference["tensors"]):
        raise SigmaError(f"{folder}: the record of it was altered; fetch the base again (dvc repro)")
    policy = load_strictly(config, folder, reference["tensors"], dtype=dtype)
    if split:
        split(large_layers(policy), device)
    place(policy, device)
    policy.config.device = device
    return Base(
        policy=policy,
        prompter=Prompter(tokenizer, config.tokenizer_max_length),
        cameras=tuple(description["cameras"]),
        state_dim=description["state_dim"],
        action_dim=description["action_dim"],
        chunk_size=config.chunk_size,
        resolution=config.image_resolution[0],
        num_steps=config.num_inference_steps,
        modes=normalisations(config),
        statistics=statistics,
        reference=reference,
    )
