"""``benchmark`` in stages/benchmark/params.yaml: how often the figures are measured, and on how much work."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from sigma.parameters import read_sections
from sigma.parameters.schema import Section


class BenchmarkParameters(Section):
    """``repetitions`` counts the rounds; ``seconds`` is how long a side runs at least in each of them."""

    repetitions: int = Field(ge=5, le=1000)
    seconds: float = Field(gt=0, le=600)
    threads: int = Field(ge=1, le=1024)
    workers: int = Field(ge=1, le=1024)
    decisions: int = Field(ge=1)
    evaluation_windows: int = Field(ge=1)
    memory_episodes: list[Annotated[int, Field(ge=1)]] = Field(min_length=2, max_length=2)

    @field_validator("memory_episodes")
    @classmethod
    def _few_and_many(cls, episodes: list[int]) -> list[int]:
        if episodes[0] >= episodes[1]:
            raise ValueError("the second number must be the larger one")
        return episodes


class BenchmarkFile(Section):
    benchmark: BenchmarkParameters


def read_benchmark(params: Path) -> BenchmarkParameters:
    """The section ``benchmark`` of this file; a fault is a one-line error that names file, key and range."""
    return read_sections(BenchmarkFile, params).benchmark
