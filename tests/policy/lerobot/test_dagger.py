"""What LeRobot's dagger strategy records of a Sigma on a mock arm is what the pipeline reads as corrections."""

from pathlib import Path

import numpy as np
import pytest
from lerobot.configs.dataset import DatasetRecordConfig
from lerobot.rollout.configs import DAggerStrategyConfig

from sigma.data.dataset.dataset import open_dataset
from sigma.data.dataset.joining import check_corrections
from tests.lerobot_policies import write_policy
from tests.mockarm import roll_out
from tests.mockleader import MockLeaderConfig
from tests.worlds import World

PAUSE, CORRECT = "pause_resume", "correction"


@pytest.fixture(scope="module")
def folder(trained: World, tmp_path_factory) -> Path:
    return write_policy(trained, tmp_path_factory.mktemp("policies") / "sigma")


@pytest.mark.parametrize("autonomous", [True, False])
def test_a_recorded_takeover_is_read_as_a_correction(folder, tmp_path, autonomous):
    root = tmp_path / "recorded"
    roll_out(
        folder,
        tmp_path,
        presses={8: PAUSE, 10: CORRECT, 20: CORRECT, 22: PAUSE},
        robot={"size": 64},
        teleop=MockLeaderConfig(id="mock", calibration_dir=tmp_path),
        strategy=DAggerStrategyConfig(record_autonomous=autonomous, num_episodes=1, smooth_handover=False),
        dataset=DatasetRecordConfig("tests/rollout_corrections", "lift the cube", root, fps=10, push_to_hub=False),
        duration=3.0,
    )
    dataset = open_dataset(root)
    check_corrections(dataset, "fetch.further.0.source", True)
    (rows,) = dataset.read_each(dataset.episodes)
    person = rows.intervention
    np.testing.assert_array_equal(rows.action[person][:, 0], np.arange(person.sum()) + 5)
    assert person.sum() == 10
    if autonomous:
        first = int(person.argmax())
        assert 0 < first < 10 and person[first : first + 10].all() and not person[first + 10 :].any()
        assert len(person) > first + 10, "the policy went on"
    else:
        assert person.all()
