"""Section ``base``: the frozen π0.5 that Sigma corrects."""

from typing import Literal

from pydantic import Field

from sigma.parameters.schema import Section, Words


class BaseParameters(Section):
    samples: int = Field(ge=1, le=256)
    action: Literal["zero_noise", "mean", "sample"]
    statistics: Literal["checkpoint", "dataset"]
    dtype: Literal["float32", "bfloat16"]
    seed: int = Field(ge=0)
    instructions: list[Words]
