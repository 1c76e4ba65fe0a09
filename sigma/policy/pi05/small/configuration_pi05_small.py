"""Configuration of a small π0.5: LeRobot's `PI05Config` with the sizes of its towers as fields."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config

ATTENTION_HEADS = 8
"""Heads of the joint attention; the number is fixed inside LeRobot's `compute_layer_complete`."""


@PreTrainedConfig.register_subclass("pi05_small")
@dataclass
class PI05SmallConfig(PI05Config):
    """π0.5 with reduced sizes; every other field keeps LeRobot's meaning.

    The language model and the action expert share depth, head count and head size, because each expert layer attends
    to the keys of the language-model layer beside it. One key-value head serves all query heads, as in π0.5.

    Raises:
        ValueError: a size that does not fit the architecture.
    """

    # Sides of the square image in pixels.
    image_resolution: tuple[int, int] = (96, 96)
    # Side of a square image patch in pixels; a camera gives (resolution / patch)² tokens.
    patch_size: int = 16
    # Width, layers, attention heads and feed-forward width of the SigLIP tower.
    vision_width: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    vision_mlp: int = 192
    # Width and feed-forward width of the PaliGemma language model.
    language_width: int = 128
    language_mlp: int = 256
    # Width and feed-forward width of the action expert.
    expert_width: int = 96
    expert_mlp: int = 192
    # Layers and head size of language model and expert alike.
    depth: int = 3
    head_dim: int = 16
    # Size of the vocabulary; it must cover the tokenizer that the policy is used with.
    vocabulary_size: int = 640

    chunk_size: int = 16
    n_action_steps: int = 8
    max_state_dim: int = 6
    max_action_dim: int = 6
    num_inference_steps: int = 5
    tokenizer_max_length: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = (
            *("patch_size", "vision_width", "vision_layers", "vision_heads", "vision_mlp", "language_width"),
            *("language_mlp", "expert_width", "expert_mlp", "depth", "head_dim", "vocabulary_size"),
        )
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.image_resolution[0] % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide the resolution {self.image_resolution[0]}")
        if self.vision_width % self.vision_heads:
            raise ValueError(f"vision_heads {self.vision_heads} does not divide vision_width {self.vision_width}")
        if self.expert_width % 2 or self.head_dim % 2:
            raise ValueError("expert_width and head_dim must be even: their positions are encoded in sine-cosine pairs")
