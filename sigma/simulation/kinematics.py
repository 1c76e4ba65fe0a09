"""Inverse kinematics of the arm: damped least squares on the gripper frame (Buss, 2004), jaws down, roll fixed.

Five joints cannot reach every position with every orientation. The roll is given, so that the jaws of every task close
in about the same direction; the four other joints solve for the position, and point down as far as the reach allows.
"""

import functools

import numpy as np

from sigma.simulation.gl import mujoco
from sigma.simulation.model import build_model
from sigma.simulation.scene import JOINTS, PAN_AXIS, joint_ranges

GRASP_ROLL = 1.62  # the jaws close sideways and the wrist camera looks away from the robot
OPEN = 0.75  # gripper joint, radians
CLOSED = -0.17
_DOWN_WEIGHT = 0.02  # metres of position error that one radian of tilt is worth
_DAMPING = 1e-4
_GUESS = (0.0, -0.2, 0.4, 1.4)


@functools.cache
def _scratch() -> mujoco.MjData:
    return mujoco.MjData(build_model())


def _damped(matrix: np.ndarray, error: np.ndarray) -> np.ndarray:
    return np.linalg.solve(matrix.T @ matrix + _DAMPING * np.eye(4), matrix.T @ error)


def inverse(position: np.ndarray, roll: float = GRASP_ROLL, guess: np.ndarray | None = None) -> np.ndarray:
    """Joint angles [5] in radians that bring the gripper frame to ``position`` [3], pointing down where it can.

    ``guess`` [4] (pan, lift, elbow, flex) is where the search begins; by default above the table, facing the position.
    """
    model, data = build_model(), _scratch()
    site = model.site("gripperframe").id
    low, high = (limit[:4] for limit in joint_ranges())
    address = np.array([model.joint(name).qposadr[0] for name in JOINTS])
    dofs = np.array([model.joint(name).dofadr[0] for name in JOINTS[:4]])
    q = np.array(_GUESS if guess is None else guess, np.float64)
    if guess is None:
        q[0] = -np.arctan2(*(position[:2] - PAN_AXIS)[::-1])
    jacobian, rotation = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    for _ in range(60):
        data.qpos[address[:5]] = [*q, roll]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, jacobian, rotation, site)
        forward = data.site_xmat[site].reshape(3, 3)[:, 2]
        # The rotation that takes `forward` to straight down, to first order.
        tilt = np.cross(forward, (0, 0, -1))
        error = np.concatenate([position - data.site_xpos[site], _DOWN_WEIGHT * tilt])
        matrix = np.concatenate([jacobian[:, dofs], _DOWN_WEIGHT * rotation[:, dofs]])
        step = _damped(matrix, error)
        blocked = ((q <= low) & (step < 0)) | ((q >= high) & (step > 0))
        if blocked.any():  # a joint at its limit must not carry a share of the motion
            step = _damped(np.where(blocked, 0.0, matrix), error)
        q = np.clip(q + np.clip(step, -0.3, 0.3), low, high)
        if np.abs(step).max() < 1e-5:
            break
    return np.array([*q, roll])
