"""What ``lerobot-rollout`` is about to do with a robot, checked while the policy loads: before the robot is connected.

LeRobot tells a policy nothing of the command that runs it, so the command's configuration is looked up on the stack.
"""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from sigma.shared.errors import SigmaError


def check_rollout(described: Mapping[str, Any]) -> None:
    """Raise :class:`SigmaError` where ``lerobot-rollout`` would run a model otherwise than it was trained.

    ``described`` is the model's ``config.json``. Outside of that command nothing is checked.
    """
    rollout = _running_rollout()
    if rollout is None:
        return
    rate = described["fps"]
    if rollout.fps != rate:
        raise SigmaError(
            f"--fps: found {rollout.fps:g}; legal: {rate:g}, the rate of the training data; add --fps={rate:g}"
        )


def _running_rollout() -> Any:
    """The ``RolloutConfig`` that a function on the stack works with; None where there is none."""
    module = sys.modules.get("lerobot.rollout.configs")  # imported by then, if such a configuration was made
    frame: FrameType | None = sys._getframe()
    while module is not None and frame is not None:
        for value in frame.f_locals.values():
            if isinstance(value, module.RolloutConfig):
                return value
        frame = frame.f_back
    return None
