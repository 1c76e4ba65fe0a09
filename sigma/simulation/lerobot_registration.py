"""Registers the simulated SO-101 as an environment type of LeRobot: ``--env.type=sigma_so101``.

No simulator is imported before episodes are played, so that a robot's computer needs none, and another simulator's
choice of a GL library is left alone; :mod:`sigma.simulation.lerobot_env` is the environment itself.
"""

from dataclasses import dataclass, field
from functools import partial

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from sigma.policy.lerobot.configuration_sigma import in_one_line
from sigma.shared.errors import SigmaError
from sigma.simulation.setting import TARGET

JOINTS = 6


@EnvConfig.register_subclass("sigma_so101")
@dataclass
class SigmaSO101EnvConfig(EnvConfig):
    """One task of the simulator. LeRobot's ``--seed`` is the seed of the first episode; the others follow it."""

    task: str | None = TARGET
    # Control steps a second; the simulator has no other rate.
    fps: int = 10
    # Names of cameras and side of their images in pixels.
    cameras: list[str] = field(default_factory=lambda: ["up", "wrist"])
    size: int = 96
    # Control steps after which an episode has failed; null is the task's own number.
    episode_length: int | None = None

    def __post_init__(self) -> None:
        shape = (self.size, self.size, 3)
        self.features = {
            "action": PolicyFeature(FeatureType.ACTION, (JOINTS,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (JOINTS,)),
            **{f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, shape) for name in self.cameras},
        }
        self.features_map = {name: name for name in self.features} | {"agent_pos": "observation.state"}

    @property
    def gym_kwargs(self) -> dict:
        cameras = tuple(self.cameras)
        return {"task": self.task, "cameras": cameras, "size": self.size, "max_steps": self.episode_length}

    @in_one_line()
    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, gym.vector.VectorEnv]]:
        """``n_envs`` environments that step together, in processes of their own where ``use_async_envs`` asks for them.

        An episode that has ended is not simulated further. Raises :class:`SigmaError`, which LeRobot's command
        ends in one line, for an unknown task or camera, or where the simulator is not installed.
        """
        from lerobot.envs.utils import freeze_after_episode_end

        if self.fps != SigmaSO101EnvConfig.fps:
            raise SigmaError(f"env.fps: found {self.fps}; legal: {SigmaSO101EnvConfig.fps}")
        from sigma.simulation.lerobot_env import LeRobotSO101Env

        make = partial(LeRobotSO101Env, **self.gym_kwargs)
        make()  # a wrong task is refused here, not in another process
        makers = [freeze_after_episode_end(make)] * n_envs
        vector: gym.vector.VectorEnv
        if use_async_envs and n_envs > 1:
            vector = AsyncVectorEnv(makers, context="forkserver", autoreset_mode=AutoresetMode.SAME_STEP)
        else:
            vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        return {self.type: {0: vector}}
