"""A tiny project as the benchmark sees it: one round, the least work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.parameters import read_parameters
from sigma.parameters.schema import validate
from sigma.studies.benchmark.project import Project
from sigma.studies.benchmark.settings import BenchmarkFile
from tests.worlds import World

SETTINGS: dict[str, Any] = {
    "repetitions": 5,
    "seconds": 0.01,
    "threads": 1,
    "workers": 1,
    "decisions": 2,
    "evaluation_windows": 4,
    "memory_episodes": [4, 8],
}


def project_of(world: World, *changes: Mapping[str, Any], **settings: Any) -> Project:
    """``world`` with ``changes`` of its parameters, and ``settings`` over ``SETTINGS``."""
    section = validate(BenchmarkFile, {"benchmark": {**SETTINGS, **settings}}, Path("benchmark.yaml")).benchmark
    parameters = read_parameters(Path("params.yaml"), world.values(*changes))
    # Fewer rounds than the file may ask for.
    return Project(world.root, parameters, section.model_copy(update={"repetitions": 1}))
