"""An arm for LeRobot's commands: it is at its target at once, shows grey pictures and remembers what it was sent.

LeRobot finds the class ``MockArm`` of a ``MockArmConfig`` by the name of this module.
"""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from lerobot.configs import PreTrainedConfig
from lerobot.robots import Robot, RobotConfig
from lerobot.rollout.configs import RolloutConfig
from lerobot.rollout.context import build_rollout_context
from lerobot.rollout.strategies import create_strategy

from tests.datasets import JOINTS


@RobotConfig.register_subclass("mock_arm")
@dataclass
class MockArmConfig(RobotConfig):
    joints: list[str] = field(default_factory=lambda: list(JOINTS))
    views: list[str] = field(default_factory=lambda: ["up", "wrist"])
    size: int = 32


class MockArm(Robot):
    """LeRobot makes one by the name of its configuration; the latest is ``MockArm.made``, None if none was made."""

    config_class, name = MockArmConfig, "mock_arm"
    is_calibrated = True
    made: "MockArm | None" = None

    def __init__(self, config: MockArmConfig):
        super().__init__(config)
        self.config, self.connected = config, False
        self.position = dict.fromkeys(config.joints, 0.0)
        self.sent: list[dict[str, float]] = []
        self.count, self.observed = 0, lambda count: None
        MockArm.made = self

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self.config.joints, float)

    @property
    def observation_features(self) -> dict[str, Any]:
        return self.action_features | {view: (self.config.size, self.config.size, 3) for view in self.config.views}

    @property
    def is_connected(self) -> bool:
        return self.connected

    def connect(self, calibrate: bool = True) -> None:
        self.connected = True

    def disconnect(self) -> None:
        self.connected = False

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_observation(self) -> dict[str, Any]:
        self.count += 1
        self.observed(self.count)
        picture = np.full((self.config.size, self.config.size, 3), 90, dtype=np.uint8)
        return self.position | {view: picture + index for index, view in enumerate(self.config.views)}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        self.sent.append(dict(action))
        self.position |= action
        return action

    def commands(self) -> np.ndarray:
        """What was sent, [n, D] in the arm's order of joints."""
        return np.array([[action[joint] for joint in self.config.joints] for action in self.sent])


def roll_out(
    policy: Path,
    folder: Path,
    *overrides: str,
    robot: dict[str, Any] | None = None,
    presses: dict[int, str] | None = None,
    **options: Any,
) -> MockArm:
    """Run a policy folder on a mock arm as ``lerobot-rollout`` does; ``folder`` takes what LeRobot writes.

    ``overrides`` are the policy's, ``robot`` is of the :class:`MockArmConfig`, ``options`` are of the command.
    ``presses`` are the keys of the dagger strategy that someone presses, by the number of the observation.
    """
    MockArm.made = None
    config = PreTrainedConfig.from_pretrained(policy, cli_overrides=list(overrides))
    config.pretrained_path = policy
    settings = {"fps": 10.0, "duration": 0.5, "task": "lift the cube", "return_to_initial_position": False} | options
    arm = MockArmConfig(id="mock", calibration_dir=folder, **(robot or {}))
    rollout = RolloutConfig(robot=arm, policy=config, **settings)
    context = build_rollout_context(rollout, Event())
    strategy = create_strategy(rollout.strategy)
    assert MockArm.made is not None
    try:
        strategy.setup(context)
        if presses:
            MockArm.made.observed = lambda count: (
                count in presses and strategy._events.request_transition(presses[count])
            )
        strategy.run(context)
    finally:
        strategy.teardown(context)
    return MockArm.made
