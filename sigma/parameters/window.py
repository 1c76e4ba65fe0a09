"""Section ``window``: how episodes are cut into windows and split."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from sigma.parameters.schema import Section


def _count_or_fraction(value: Any) -> Any:
    is_count, is_fraction = type(value) is int and value >= 0, type(value) is float and 0 < value < 1
    if not (is_count or is_fraction):
        raise ValueError("must be a count of episodes or a fraction of them")
    return value


# The validator runs before the union, because a union's error names neither the key nor the range.
Episodes = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)], BeforeValidator(_count_or_fraction)
]


class WindowParameters(Section):
    horizon: int = Field(ge=1, le=1024)
    chunk: int = Field(ge=1, le=1024)
    train_stride: int = Field(ge=1, le=1024)
    eval_stride: int = Field(ge=1, le=1024)
    memory_stride: int = Field(ge=1, le=1024)
    trace: int = Field(ge=0, le=1024)
    min_action_norm: float = Field(ge=0)
    min_motion: float = Field(ge=0)
    validation: Episodes
    test: Episodes
    seed: int = Field(ge=0, lt=2**63)
    cameras: dict[str, str | None]
    exclude_joints: tuple[str, ...] = Field(strict=False)
    critical_joints: tuple[str, ...] = Field(strict=False)
    shard_mib: int = Field(ge=1, le=65536)

    @field_validator("chunk")
    @classmethod
    def _chunk_within_horizon(cls, chunk: int, info: ValidationInfo) -> int:
        if chunk > info.data.get("horizon", chunk):
            raise ValueError(f"the chunk must not be longer than window.horizon ({info.data['horizon']})")
        return chunk

    @field_validator("train_stride", "eval_stride")
    @classmethod
    def _strides_fit_horizon(cls, stride: int, info: ValidationInfo) -> int:
        horizon = info.data.get("horizon", stride)
        if horizon % stride and (info.field_name == "train_stride" or stride % horizon):
            alternative = "" if info.field_name == "train_stride" else " or be a multiple of it"
            raise ValueError(f"must divide window.horizon ({horizon}){alternative}")
        return stride
