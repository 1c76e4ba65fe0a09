"""Section ``audit``: what counts as a fault of the dataset, and what a failure does."""

from typing import Annotated, Literal, TypedDict

from pydantic import Field, ValidationInfo, field_validator

from sigma.parameters.schema import Section


class LimitOverride(TypedDict, total=False):
    """Other limits of one check: above ``fail`` a measure is a failure, above ``warn`` a warning; null switches a level
    off. A level that is left out keeps the check's own limit, which is why this is no Section: there it would need a
    default.
    """

    warn: Annotated[float, Field(ge=0)] | None
    fail: Annotated[float, Field(ge=0)] | None


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
    limits: dict[str, LimitOverride]  # by the name of the check, which the stage knows
