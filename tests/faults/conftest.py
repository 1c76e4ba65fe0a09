"""One finished project for all faults of a session."""

import av
import pytest

from tests.faults.finished import finish


@pytest.fixture(scope="session")
def finished(prepared, trained, tmp_path_factory):
    """A project in which every stage has run; read only."""
    return finish(trained, prepared.root / "data/dataset", tmp_path_factory.mktemp("faults") / "finished")


@pytest.fixture(autouse=True)
def _quiet_libav():
    """LeRobot's writer, which made the dataset, turns libav's own messages on; in a command's process they are off."""
    before = av.logging.get_level()
    av.logging.set_level(None)
    yield
    av.logging.set_level(before)
