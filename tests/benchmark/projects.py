"""A tiny project as the benchmark sees it: one round, the least work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.benchmark.measure import Effort
from sigma.benchmark.parameters import SECTIONS
from sigma.benchmark.project import Project
from sigma.cli import read_parameters
from sigma.parameters import validate
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
    section = validate(SECTIONS, {"benchmark": {**SETTINGS, **settings}}, Path("benchmark.yaml"))["benchmark"]
    return Project(world.root, read_parameters(file, values), section, Effort(repetitions=1, warm_up=0, seconds=0.01))
