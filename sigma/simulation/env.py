"""The simulator as a Gymnasium environment: one step is one control step of 0.1 s.

Importing this module registers it: ``gymnasium.make("sigma.simulation.env:Sigma/SO101-v0", task="pick_place")``, or the
name without the module once it has been imported.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sigma.policy.adapter.limits import limit_action
from sigma.shared.seeding import seed_from
from sigma.simulation.disturbance import Disturbance
from sigma.simulation.scene import CAMERAS, CONTROL_HZ, IMAGE_SIZE, World, camera_named, to_units, unit_ranges
from sigma.simulation.setting import PLAIN, Setting
from sigma.simulation.task import Monitor, Scenario
from sigma.simulation.tasks import TARGET, task_named

ENVIRONMENT = "Sigma/SO101-v0"
MAX_STEP = 30.0  # the greatest change of a joint's target in one control step, units; the expert's is below 20
TEXT = spaces.Text(max_length=80, charset="abcdefghijklmnopqrstuvwxyz0123456789 ")


class SO101Env(gym.Env):
    """One task of :data:`sigma.simulation.tasks.TASKS`, plain or in a harder ``setting``.

    Observation, a ``Dict`` space:

    - ``images``: camera (``up``, ``wrist``) -> uint8 [size, size, 3];
    - ``state``: float32 [6], the measured joints; unbounded, as a contact can push a joint a little past its limit;
    - ``task``: the instruction, at most 80 small letters, digits and spaces.

    Action: float32 [6], absolute joint targets within ``action_space``. States and actions are in LeRobot's normalised
    units: [-100, 100], and [0, 100] for the gripper. What is executed is clamped to the joint limits and to
    ``MAX_STEP`` a control step; a non-finite action raises :class:`sigma.policy.adapter.limits.NonFiniteActionError`.

    Reward is 1 with success, which terminates the episode; after ``max_steps`` control steps (by default the task's own
    limit) it is truncated. ``info`` holds ``success``, ``progress`` in [0, 1] and ``wrong_box``.

    ``reset(seed=n)`` always gives the same episode, and none that :mod:`sigma.simulation.record` can write. The caller
    who plans applies a setting's ``delay``; this environment does not.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (Gymnasium's own attribute)
    observation_space: spaces.Dict
    scenario: Scenario  # of the present episode, as those below
    disturbance: Disturbance
    monitor: Monitor
    limit: int  # control steps after which it has failed; max_steps is that of the longest episode

    def __init__(
        self,
        task: str = TARGET,
        cameras: Sequence[str] = tuple(CAMERAS),
        size: int = IMAGE_SIZE,
        max_steps: int | None = None,
        render_mode: str | None = None,
        setting: Setting = PLAIN,
    ):
        self.task = task_named(task)
        for camera in cameras:
            camera_named(camera)
        self.cameras, self.size, self.render_mode, self.setting = tuple(cameras), size, render_mode, setting
        self._given_limit = max_steps
        self.max_steps = self.task.longest(setting) if max_steps is None else max_steps
        low, high = unit_ranges()
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        images = spaces.Dict({camera: image for camera in self.cameras})
        state = spaces.Box(-np.inf, np.inf, low.shape, np.float32)
        self.observation_space = spaces.Dict({"images": images, "state": state, "task": TEXT})
        self.world = World()
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the episode of ``seed``; ``options={"instruction": ...}`` replaces the drawn instruction."""
        super().reset(seed=seed)
        self.begin(int(self.np_random.integers(2**31)) if seed is None else seed, (options or {}).get("instruction"))
        return self.observe(), self.monitor.info()

    def begin(self, seed: int, instruction: str | None = None) -> None:
        """:meth:`reset` without rendering."""
        address = seed_from("rollout", self.task.scenes, seed)
        self.scenario = self.task.scenario(address, instruction, setting=self.setting)
        own_limit = self.scenario.arrival + self.task.max_steps
        self.limit = own_limit if self._given_limit is None else self._given_limit
        self.disturbance = Disturbance(self.setting, self.task.scenes, seed)
        self.world.reset(self.scenario.layout)
        self.monitor = Monitor(self.task, self.scenario, self.world)
        self.steps = 0

    def observe(self) -> dict[str, Any]:
        """The present observation; only this renders."""
        images = {camera: self.disturbance.render(self.world, camera, self.size) for camera in self.cameras}
        return {"images": images, "state": self.world.state(), "task": self.scenario.instruction}

    def advance(self, action: np.ndarray) -> tuple[bool, bool]:
        """:meth:`step` without rendering; returns whether the episode succeeded and whether its time is over."""
        previous = to_units(self.world.command)
        target = self.disturbance.action(np.asarray(action, np.float32))
        self.disturbance.push(self.world, self.steps - self.scenario.arrival)
        self.world.step(limit_action(target, previous, *unit_ranges(), MAX_STEP))
        self.monitor.update(self.world)
        self.steps += 1
        return self.monitor.success, not self.monitor.success and self.steps >= self.limit

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        success, late = self.advance(action)
        return self.observe(), float(success), success, late, self.monitor.info()

    def render(self) -> np.ndarray | None:
        return self.world.render(self.cameras[0], self.size) if self.render_mode == "rgb_array" else None


if ENVIRONMENT not in gym.registry:  # a reload would warn
    gym.register(ENVIRONMENT, entry_point="sigma.simulation.env:SO101Env")
