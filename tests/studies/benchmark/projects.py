"""A tiny project as the benchmark sees it: one round, the least work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.parameters import read_parameters
from sigma.parameters.schema import validate
from sigma.studies.benchmark.measure import Effort
from sigma.studies.benchmark.project import Project
from sigma.studies.benchmark.settings import BenchmarkFile
from tests.worlds import World

SETTINGS: dict[str, Any] = {
    "repetitions": 5,
    "warm_up": 0,
    "seconds": 0.01,
    "threads": 1,
    "workers": 1,
    "loading": {"windows": 8},
    "windowing": {"episodes": 6, "copies": [1, 2], "shard_mib": 1},
    "training": {"steps": 1},
    "decision": {"decisions": 2},
    "evaluation": {"windows": 4},
    "startup": {"pipeline": True},
}


def project_of(world: World, *changes: Mapping[str, Any], **settings: Any) -> Project:
    """``world`` with ``changes`` of its parameters, and ``settings`` over ``SETTINGS``."""
    file = Path("params.yaml")
    values = world.values(*changes)
    section = validate(BenchmarkFile, {"benchmark": {**SETTINGS, **settings}}, Path("benchmark.yaml")).benchmark
    return Project(world.root, read_parameters(file, values), section, Effort(repetitions=1, warm_up=0, seconds=0.01))
