"""Small inputs that the tests of several commands share."""

import pytest

from tests.bases import write_tiny_base
from tests.datasets import write_dataset


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("commands") / "dataset")


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("commands") / "base")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder, made the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
