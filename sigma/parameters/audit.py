"""Section ``audit``: what counts as a fault of the dataset, and what a failure does."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from sigma.parameters.schema import Section


class LimitParameters(Section):
    """A measure above ``fail`` is a failure, above ``warn`` a warning; null switches that level off."""

    warn: float | None = Field(ge=0)
    fail: float | None = Field(ge=0)

    @field_validator("fail")
    @classmethod
    def _fail_not_below_warn(cls, fail: float | None, info: ValidationInfo) -> float | None:
        warn = info.data.get("warn")
        if fail is not None and warn is not None and fail < warn:
            raise ValueError(f"must not be below warn ({warn:g})")
        return fail


class CheckLimits(Section):
    stale_statistics: LimitParameters
    frame_total: LimitParameters
    wrong_type: LimitParameters
    row_count: LimitParameters
    video_span: LimitParameters
    short_episode: LimitParameters
    row_order: LimitParameters
    index_gap: LimitParameters
    non_finite: LimitParameters
    timestamp_order: LimitParameters
    timestamp_gap: LimitParameters
    clock_rate: LimitParameters
    missing_task: LimitParameters
    unknown_task: LimitParameters
    duplicate_episode: LimitParameters
    frozen_state: LimitParameters
    frozen_action: LimitParameters
    dead_joint: LimitParameters
    saturated_joint: LimitParameters
    jump: LimitParameters
    action_jump: LimitParameters
    diverging_action: LimitParameters
    time_shift: LimitParameters
    outside_range: LimitParameters
    small_values: LimitParameters
    unit_mismatch: LimitParameters
    undecodable_video: LimitParameters
    missing_camera: LimitParameters
    video_length: LimitParameters
    image_size: LimitParameters
    blank_camera: LimitParameters
    frozen_camera: LimitParameters
    twin_cameras: LimitParameters
    swapped_cameras: LimitParameters
    duplicate_video: LimitParameters


class RangeParameters(Section):
    lower: float
    upper: float

    @field_validator("upper")
    @classmethod
    def _above_lower(cls, upper: float, info: ValidationInfo) -> float:
        lower = info.data.get("lower")
        if lower is not None and upper <= lower:
            raise ValueError(f"must be above lower ({lower:g})")
        return upper


class AuditParameters(Section):
    on_failure: Literal["stop", "exclude", "keep"]
    exclude: tuple[int, ...] = Field(strict=False)
    min_frames: int = Field(ge=1, le=100000)
    joint_range: RangeParameters
    cameras: bool
    shown: int = Field(ge=0, le=100)
    limits: CheckLimits
