"""What ``lerobot-rollout`` is about to do with a robot, checked while the policy loads: before the robot is connected.

LeRobot tells a policy nothing of the command that runs it, so the command's own objects are looked up on the stack.
"""

import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from sigma.shared.errors import SigmaError


def check_command(described: Mapping[str, Any]) -> None:
    """Raise :class:`SigmaError` where ``lerobot-rollout`` would run a model otherwise than it was trained.

    ``described`` is the model's ``config.json``. Called while the policy loads, before the robot is connected; outside
    of that command nothing is checked.
    """
    rollout = _on_the_stack("lerobot.rollout.configs", "RolloutConfig")
    if rollout is None:
        return
    rate = described["fps"]
    if rollout.fps != rate:
        legal = f"{rate:g}, the rate of the training data; add --fps={rate:g}"
        raise SigmaError(f"--fps: found {rollout.fps:g}; legal: {legal}")
    if not (rollout.dataset.single_task if rollout.dataset else rollout.task or "").strip():
        raise SigmaError('--task: the policy acts by an instruction; give it in words: --task="…"')


def check_joints(names: Sequence[str]) -> None:
    """Raise :class:`SigmaError` where the robot of ``lerobot-rollout`` has the joints ``names`` in another order.

    LeRobot reads states and sends actions in the robot's order, whatever order the policy names. Called when an episode
    begins, before the first action.
    """
    context = _on_the_stack("lerobot.rollout.context", "RolloutContext")
    if context is None:
        return
    for key in ("observation.state", "action"):
        found = context.data.dataset_features[key]["names"]
        if found != list(names) and sorted(found) == sorted(names):
            raise SigmaError(
                f"{key}: the robot has its joints in the order {', '.join(found)}; legal: {', '.join(names)}"
            )


def _on_the_stack(module: str, name: str) -> Any:
    """The nearest object of a class that a calling function holds; None where there is none."""
    kind = getattr(sys.modules.get(module), name, None)  # imported by then, if there is such an object
    frame: FrameType | None = sys._getframe()
    while kind is not None and frame is not None:
        for value in frame.f_locals.values():
            if isinstance(value, kind):
                return value
        frame = frame.f_back
    return None
