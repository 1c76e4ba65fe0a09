"""One small dataset for all tests of the data package."""

import pytest

from sigma.data.dataset.dataset import Dataset, open_dataset
from tests.datasets import write_dataset


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("datasets") / "small")


@pytest.fixture(scope="session")
def dataset(dataset_folder) -> Dataset:
    return open_dataset(dataset_folder)
