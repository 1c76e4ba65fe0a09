"""The simulator as the Gymnasium environment that LeRobot's rollouts expect.

:mod:`sigma.simulation.lerobot_registration` makes it known to LeRobot.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sigma.simulation.env import SO101Env
from sigma.simulation.scene import CONTROL_HZ


class LeRobotSO101Env(gym.Env):
    """:class:`~sigma.simulation.env.SO101Env` under LeRobot's names; episodes and clamp are its own.

    Observation: ``pixels`` (camera -> uint8 [size, size, 3]) and ``agent_pos`` float32 [6]; the instruction is
    ``task_description``. ``info["is_success"]`` says whether the episode succeeded.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (Gymnasium's own attribute)
    render_mode = "rgb_array"

    def __init__(self, task: str, cameras: tuple[str, ...], size: int, max_steps: int | None = None):
        self.env, self.task = SO101Env(task, cameras, size, max_steps), task
        self._max_episode_steps = self.env.max_steps
        space = self.env.observation_space
        self.observation_space = spaces.Dict({"pixels": space["images"], "agent_pos": space["state"]})
        self.action_space = self.env.action_space
        self._picture = np.zeros((size, size, 3), np.uint8)

    @property
    def task_description(self) -> str:
        """The instruction of the present episode."""
        return self.env.scenario.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the episode of ``seed``, the same as that of every other rollout of the project."""
        super().reset(seed=seed)
        observation, info = self.env.reset(seed=seed)
        return self._named(observation), {"is_success": info["success"]}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._named(observation), reward, terminated, truncated, {"is_success": info["success"]}

    def render(self) -> np.ndarray:
        """The first camera's last picture; rendering it again would cost as much as the step."""
        return self._picture

    def _named(self, observation: dict[str, Any]) -> dict[str, Any]:
        self._picture = observation["images"][self.env.cameras[0]]
        return {"pixels": observation["images"], "agent_pos": observation["state"]}
