"""Section ``adapter``: how risk becomes the scale of Sigma's correction."""

from pydantic import Field, model_validator

from sigma.parameters.schema import Section


class AdapterParameters(Section):
    min_scale: float = Field(ge=0, le=1)
    max_scale: float = Field(ge=0, le=1)
    risk_temperature: float = Field(gt=0)
    false_alarms: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _ordered(self) -> "AdapterParameters":
        if self.max_scale < self.min_scale:
            raise ValueError(f"max_scale must not lie below min_scale ({self.min_scale})")
        return self
