"""One finished small pipeline, shared by the tests that run DVC."""

from pathlib import Path

import pytest

from tests.datasets import write_dataset
from tests.projects import make_project, run

SMALL = {
    "window": {"validation": 3, "test": 4},
    "base": {"samples": 2},
    "train": {"steps": 6, "batch": 8, "views": 1, "validate_every": 3, "checkpoint_every": 3},
    "telepathy": {"factors": 2, "factor_dim": 4, "width": 16},
    "report": {"resamples": 200},
    "machine": {"threads": 1, "workers": 1},
}


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    """A repository with the tracked files as they are here, small parameters, and a finished ``dvc repro``."""
    place = tmp_path_factory.mktemp("pipeline")
    dataset = write_dataset(place / "recorded", lengths=(36,) * 12)
    folder = make_project(place / "sigma-clone", SMALL | {"fetch": {"dataset": {"source": str(dataset)}}})
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "first run")
    return folder
