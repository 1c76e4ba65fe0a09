"""A leader arm for LeRobot's commands, which LeRobot finds by the name of this module."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

from tests.datasets import JOINTS


@TeleoperatorConfig.register_subclass("mock_leader")
@dataclass
class MockLeaderConfig(TeleoperatorConfig):
    pass


class MockLeader(Teleoperator):
    """A leader arm that nobody drives, whose joints all stand at 5, then at 6, 7, …"""

    config_class, name = MockLeaderConfig, "mock_leader"
    is_connected = is_calibrated = True
    feedback_features: ClassVar[dict[str, Any]] = {}  # none: nothing drives it to where the arm is
    action_features = dict.fromkeys(JOINTS, float)

    def connect(self, calibrate: bool = True) -> None:
        self.angle = 4.0

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_action(self) -> dict[str, float]:
        self.angle += 1.0
        return dict.fromkeys(JOINTS, self.angle)

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        pass

    def disconnect(self) -> None:
        pass
