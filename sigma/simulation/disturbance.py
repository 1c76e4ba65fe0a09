"""What disturbs an episode in a harder setting, drawn from (kind, task, seed) and from nothing else.

All of it is our own design. Every arm meets the same disturbances, and a setting changes only what its fields name.
"""

import numpy as np

from sigma.shared.seeding import generator
from sigma.simulation.gl import mujoco
from sigma.simulation.scene import CAMERAS, World
from sigma.simulation.setting import Setting

SHIFTED_CAMERA = "up"
PUSH_STEPS = (5, 25)  # the push falls on a control step drawn from here, the last one excluded


class Disturbance:
    """What a setting does in one episode; ``task`` and ``seed`` are its address."""

    def __init__(self, setting: Setting, task: str, seed: int):
        self.setting = setting
        self._address = (task, seed)
        self._noise = generator("action noise", *self._address)
        draw = generator("push", *self._address)
        self._push_step = int(draw.integers(*PUSH_STEPS))
        direction = draw.uniform(-np.pi, np.pi)
        self._push = setting.push * np.array([np.cos(direction), np.sin(direction)])
        draw = generator("camera", *self._address)
        shift, axis = draw.standard_normal((2, 3))
        self._shift = setting.camera_metres * shift / np.linalg.norm(shift)
        quaternion, matrix = np.empty(4), np.empty(9)
        mujoco.mju_axisAngle2Quat(quaternion, axis / np.linalg.norm(axis), np.radians(setting.camera_degrees))
        mujoco.mju_quat2Mat(matrix, quaternion)
        self._turn = matrix.reshape(3, 3)

    def action(self, action: np.ndarray) -> np.ndarray:
        """What is executed for the commanded ``action`` [6], before the joint limits."""
        if not self.setting.action_noise:
            return action
        return (action + self.setting.action_noise * self._noise.standard_normal(len(action))).astype(action.dtype)

    def push(self, world: World, step: int) -> None:
        """Give the cube its push, if this is the control step of it, counted from when the cube is there."""
        if self.setting.push and step == self._push_step:
            world.data.joint("cube").qvel[:2] += self._push

    def render(self, world: World, camera: str, size: int) -> np.ndarray:
        """A camera's view, uint8 [size, size, 3], from where this setting has put it."""
        moved = self.setting.camera_metres or self.setting.camera_degrees
        if not moved or camera != SHIFTED_CAMERA:
            return world.render(camera, size)
        # All worlds share the model; the camera's present pose lies in the data.
        pose = world.data.camera(CAMERAS[camera])
        position, frame = pose.xpos.copy(), pose.xmat.copy()
        pose.xpos[:] = position + self._shift
        pose.xmat[:] = (self._turn @ frame.reshape(3, 3)).ravel()
        try:
            return world.render(camera, size)
        finally:
            pose.xpos[:], pose.xmat[:] = position, frame
