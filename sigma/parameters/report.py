"""Section ``report``: how windows are scored, resampled and shown."""

from pydantic import Field

from sigma.parameters.schema import Section


class NamedTask(Section):
    """Instructions that are shown as one task: those that fit one of the patterns, whatever the case."""

    name: str
    instructions: list[str]


class ReportParameters(Section):
    tolerance: float = Field(ge=0, le=1)
    resamples: int = Field(ge=100, le=1_000_000)
    seed: int = Field(ge=0)
    batch: int = Field(ge=1, le=4096)
    worst_windows: int = Field(ge=0, le=100)
    critical_threshold: float = Field(ge=0, le=2)
    tasks: list[NamedTask]
