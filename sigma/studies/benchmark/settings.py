"""``benchmark`` in stages/benchmark/params.yaml: how often the figures are measured, and on how much work."""

from itertools import pairwise
from pathlib import Path

from pydantic import Field, field_validator

from sigma.parameters import read_sections
from sigma.parameters.schema import Section
from sigma.studies.benchmark.measure import Effort

PARAMS = Path("stages/benchmark/params.yaml")
LEAST_REPETITIONS = 5


class LoadingParameters(Section):
    windows: int = Field(ge=1)


class WindowingParameters(Section):
    episodes: int = Field(ge=1)
    copies: list[int] = Field(min_length=2)
    shard_mib: int = Field(ge=1, le=65536)

    @field_validator("copies")
    @classmethod
    def _rising(cls, copies: list[int]) -> list[int]:
        if copies[0] != 1 or any(later <= earlier for earlier, later in pairwise(copies)):
            raise ValueError("copies must rise, the first of them 1")
        return copies


class TrainingParameters(Section):
    steps: int = Field(ge=1)


class DecisionParameters(Section):
    decisions: int = Field(ge=1)


class EvaluationParameters(Section):
    windows: int = Field(ge=1)


class StartupParameters(Section):
    pipeline: bool


class BenchmarkParameters(Section):
    """``benchmark`` of the parameter file: what all parts have in common, and one section a part that has settings."""

    repetitions: int = Field(ge=LEAST_REPETITIONS, le=1000)
    warm_up: int = Field(ge=0, le=100)
    seconds: float = Field(gt=0, le=600)
    threads: int = Field(ge=1, le=1024)
    workers: int = Field(ge=1, le=1024)
    loading: LoadingParameters
    windowing: WindowingParameters
    training: TrainingParameters
    decision: DecisionParameters
    evaluation: EvaluationParameters
    startup: StartupParameters

    @property
    def effort(self) -> Effort:
        return Effort(self.repetitions, self.warm_up, self.seconds)


class BenchmarkFile(Section):
    benchmark: BenchmarkParameters


def read_benchmark(params: Path = PARAMS) -> BenchmarkParameters:
    """The section ``benchmark`` of this file; a fault is a one-line error that names file, key and range."""
    return read_sections(BenchmarkFile, params).benchmark
