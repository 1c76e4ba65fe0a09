"""How the small π0.5 is trained from scratch: the `pretrain` section of a parameter file."""

from typing import Annotated

from pydantic import Field, model_validator

from sigma.parameters.schema import Section

Count = Annotated[int, Field(ge=1)]


class Sizes(Section):
    """Sizes of the policy, under their names in :class:`PI05SmallConfig`."""

    patch_size: Count
    vision_width: Count
    vision_layers: Count
    vision_heads: Count
    vision_mlp: Count
    language_width: Count
    language_mlp: Count
    expert_width: Count
    expert_mlp: Count
    depth: Count
    head_dim: Count
    chunk_size: Count
    num_inference_steps: Count
    tokenizer_max_length: Count


class Recipe(Section):
    """Everything that the trained weights depend on besides the demonstrations."""

    seed: Annotated[int, Field(ge=0)]
    resolution: Annotated[int, Field(ge=16, le=448)]
    sizes: Sizes
    steps: Annotated[int, Field(ge=5)]
    batch: Count
    draws: Count
    learning_rate: Annotated[float, Field(gt=0, le=0.1)]
    warmup: Count
    cooldown: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    clip: Annotated[float, Field(gt=0)]
    ema: Annotated[float, Field(ge=0, lt=1)]
    state_jitter: Annotated[float, Field(ge=0, le=1)]
    balance: Annotated[float, Field(ge=0, le=1)]
    held_out: Annotated[float, Field(gt=0, le=0.5)]
    held_out_frames: Count
    evaluate_every: Count
    checkpoint_every: Count

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.warmup >= self.steps:
            raise ValueError(f"warmup {self.warmup} must be smaller than steps {self.steps}")
        if self.evaluate_every > self.steps:
            raise ValueError(f"evaluate_every {self.evaluate_every} must not exceed steps {self.steps}")
        return self
