"""The section on determinism of sigma/compute/README.md: what gives the same bytes, and how far the rest may differ.

The bounds are read from its table, so that it cannot promise more than what is measured here.
"""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sigma.shared.files import read_json
from sigma.shared.tables import read_columns
from sigma.tools.compare import numbers, relative_difference
from tests.imports import ROOT
from tests.pipeline.test_kills import products
from tests.projects import change_parameters, environment

pytestmark = pytest.mark.slow
STAGES = ("audit", "window", "baseline", "finetune", "evaluate", "report")
# Long enough for rounding to grow over the steps.
LONGER = {"train": {"steps": 80, "batch": 16, "validate_every": 20}}
FROZEN = {"data/predictions/baseline.parquet": ("base_action", "base_samples")}
TRAINED = {"data/predictions/sigma.parquet": ("sigma_action", "tau", "sem_align")}


def bounds(difference: str) -> tuple[float, float]:
    """What the table allows for a difference: of the frozen base's numbers, and of trained ones."""
    page = (ROOT / "sigma/compute/README.md").read_text(encoding="utf-8")
    section = page.split("## Determinism")[1].split("\n## ")[0]
    (row,) = re.findall(rf"^\| {re.escape(difference)} \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return tuple(0.0 if text.strip() == "none" else float(text.strip().replace("−", "-")) for text in row)


@pytest.fixture(scope="module")
def finished(clone, tmp_path_factory):
    """Runs the stages that compute in a copy of the small pipeline with these settings of the machine."""

    def run(**machine: int) -> Path:
        folder = tmp_path_factory.mktemp("machine") / "project"
        shutil.copytree(clone, folder, symlinks=True, ignore=shutil.ignore_patterns("cache", "tmp"))
        change_parameters(folder, LONGER | {"machine": machine})
        for stage in STAGES:
            command = ["python", "-m", "sigma", stage]
            surroundings = environment() | {"SIGMA_SCRATCH": str(folder.parent / "scratch")}
            surroundings.pop("OMP_NUM_THREADS", None)
            subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, check=True)
        return folder

    return run


@pytest.fixture(scope="module")
def plain(finished) -> Path:
    return finished(threads=1)


def gap(one: Path, other: Path, tables: dict[str, tuple[str, ...]]) -> float:
    """The greatest difference of any number in these columns, normalised units."""
    largest = 0.0
    for table, names in tables.items():
        first, second = (read_columns(folder / table, names)[0] for folder in (one, other))
        assert all(len(first[name]) for name in names)
        largest = max(largest, *(float(np.abs(first[name] - second[name]).max()) for name in names))
    return largest


def metric_gap(one: Path, other: Path, name: str) -> float:
    """The greatest relative difference of any figure of a metrics file."""
    first, second = (dict(numbers(read_json(folder / f"metrics/{name}.json"))) for folder in (one, other))
    assert first.keys() == second.keys() and first
    return max(relative_difference(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("difference", "machine"),
    [
        ("nothing, or a kill and a new start", {"threads": 1}),
        ("`machine.workers`", {"threads": 1, "workers": 2}),
        ("`machine.batch`", {"threads": 1, "batch": 16}),
        ("`machine.threads`", {"threads": 2}),
    ],
)
def test_a_difference_of_the_machine_stays_within_what_the_readme_says(plain, finished, difference, machine):
    folder, (frozen, trained) = finished(**machine), bounds(difference)
    found = {
        "frozen": gap(plain, folder, FROZEN),
        "trained": gap(plain, folder, TRAINED),
        "metrics": metric_gap(plain, folder, "sigma"),
    }
    print(f"\n{difference}: {found}")
    assert found["frozen"] <= frozen and found["trained"] <= trained
    if not (frozen or trained):
        assert products(folder) == products(plain)


def test_two_threads_give_the_same_bytes_again(finished):
    assert products(finished(threads=2)) == products(finished(threads=2))
