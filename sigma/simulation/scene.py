"""The simulated world: an SO-101 arm at a table with one cube and two open boxes, seen by two cameras.

Lengths are metres and angles radians inside the simulator. Everything outside of it speaks LeRobot's normalised joint
units: each joint's range maps linearly to [-100, 100], the gripper's to [0, 100].
"""

import functools
from dataclasses import dataclass

import numpy as np

from sigma.shared.errors import SigmaError
from sigma.simulation.gl import mujoco
from sigma.simulation.model import BOX_HALF, BOX_HEIGHT, BOXES, CUBE_HALF, PHYSICS_HZ, WALL, build_model

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FEATURE_NAMES = tuple(f"{joint}.pos" for joint in JOINTS)
CAMERAS = {"up": "up", "wrist": "wrist_cam"}  # our name -> the camera's name in the model
IMAGE_SIZE = 96

TICK_HZ = 30  # a control step's target is interpolated linearly over these ticks, as a servo loop would
CONTROL_HZ = 10

_FIXED_JAW, _MOVING_JAW = "gripper", "moving_jaw_so101_v1"  # bodies of the model
_JAW_OFFSET = 0.0065  # from the gripper frame to the centre of a cube that touches the fixed jaw
PAN_AXIS = np.array([0.0388353, 0.0])  # where the shoulder's vertical axis meets the table
_LAMP_HEIGHT = 0.003  # on the floor of a box
# A cube that is yet to come rests this far behind the robot, where no camera sees more of it than a part of a pixel.
_AWAY = (-20.0, 0.0, 0.0)


@functools.cache
def joint_ranges() -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper joint limits in radians, each float64 [6]."""
    ranges = np.array([build_model().joint(name).range for name in JOINTS])
    return ranges[:, 0], ranges[:, 1]


def unit_ranges() -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits of states and actions in the normalised units, each float32 [6]."""
    return np.array([-100] * 5 + [0], np.float32), np.full(6, 100, np.float32)


def to_units(radians: np.ndarray) -> np.ndarray:
    """Joint angles [..., 6] in radians to normalised units, float32."""
    (low, high), (first, last) = joint_ranges(), unit_ranges()
    return (first + (radians - low) / (high - low) * (last - first)).astype(np.float32)


def to_radians(units: np.ndarray) -> np.ndarray:
    """Normalised units [..., 6] to joint angles in radians, float64."""
    (low, high), (first, last) = joint_ranges(), unit_ranges()
    return low + (np.asarray(units, np.float64) - first) / (last - first) * (high - low)


@dataclass(frozen=True)
class Cue:
    """A light in ``box`` for the first ``lit`` control steps (None: to the end), and a cube that comes after
    ``arrival`` control steps."""

    box: str
    lit: int | None
    arrival: int


@dataclass(frozen=True)
class Layout:
    """An episode's start: cube ``(x, y, yaw)``, boxes ``(x, y)``, joints in radians, and whether the cube is held.

    With a ``cue`` the cube comes to its place later.
    """

    cube: tuple[float, float, float]
    boxes: dict[str, tuple[float, float]]
    joints: tuple[float, ...]
    held: bool = False
    cue: Cue | None = None


class World:
    """One simulated scene: physics, privileged poses and rendering. Worlds of a process share model and renderer."""

    def __init__(self) -> None:
        self.model = build_model()
        self.data = mujoco.MjData(self.model)
        self._joints = np.array([self.model.joint(name).qposadr[0] for name in JOINTS])
        self._boxes = {name: self.model.body(f"{name}_box").mocapid[0] for name in BOXES}
        self._lamp = self.model.body("lamp").mocapid[0]
        # Views of the data: they always show the present.
        self._cube, self._gripper = self.data.joint("cube"), self.data.site("gripperframe")
        self._command: np.ndarray = np.zeros(6)
        self._layout: Layout | None = None
        self._steps = 0

    def reset(self, layout: Layout) -> None:
        """Place everything and let it settle; with ``held`` the gripper closes on the cube in mid-air."""
        data = self.data
        mujoco.mj_resetData(self.model, data)
        self._layout, self._steps = layout, 0
        self._command = np.array(layout.joints, np.float64)
        data.qpos[self._joints] = self._command
        for name, (x, y) in layout.boxes.items():
            data.mocap_pos[self._boxes[name]] = (x, y, 0)
        self._put_cube(_AWAY if self.waiting else layout.cube)
        data.ctrl[:] = self._command
        mujoco.mj_forward(self.model, data)
        if layout.held:
            self._grasp()
        mujoco.mj_step(self.model, data, nstep=PHYSICS_HZ // 5)
        self._follow_cue()
        mujoco.mj_forward(self.model, data)

    def _put_cube(self, place: tuple[float, float, float]) -> None:
        x, y, yaw = place
        self._cube.qpos[:] = (x, y, CUBE_HALF, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        self._cube.qvel[:] = 0

    def _follow_cue(self) -> None:
        """Light and cube as the layout wants them after this many control steps."""
        if self._layout is None or (cue := self._layout.cue) is None:
            return
        lit = cue.lit is None or self._steps < cue.lit
        resting = self.model.body("lamp").pos
        self.data.mocap_pos[self._lamp] = (*self._layout.boxes[cue.box], _LAMP_HEIGHT) if lit else resting
        if self._steps and self._steps == cue.arrival:
            self._put_cube(self._layout.cube)

    def _grasp(self) -> None:
        """Close the jaws around the cube, which is held still in mid-air between them until they touch it."""
        pose = np.empty(7)
        rotation = self.data.body(_FIXED_JAW).xmat.reshape(3, 3)
        pose[:3] = self.gripper_position + rotation @ (-_JAW_OFFSET, 0, 0)
        mujoco.mju_mat2Quat(pose[3:], self._gripper.xmat)
        closed = joint_ranges()[0][5]
        for target in np.linspace(self._command[5], closed, PHYSICS_HZ // 2):
            self._cube.qpos[:], self._cube.qvel[:] = pose, 0
            self.data.ctrl[5] = target
            mujoco.mj_step(self.model, self.data)
            if self.jaw_contacts()[1]:
                break
        self._command[5] = self.data.ctrl[5] = closed

    def step(self, action: np.ndarray) -> None:
        """Advance one control step towards ``action`` [6], absolute joint targets in normalised units."""
        target = to_radians(action)
        start, ticks = self._command, TICK_HZ // CONTROL_HZ
        for tick in range(1, ticks + 1):
            self.data.ctrl[:] = start + (target - start) * tick / ticks
            mujoco.mj_step(self.model, self.data, nstep=PHYSICS_HZ // TICK_HZ)
        self._steps += 1
        self._follow_cue()
        mujoco.mj_forward(self.model, self.data)
        self._command = target

    @property
    def waiting(self) -> bool:
        """Whether the cube is yet to come."""
        return self._layout is not None and self._layout.cue is not None and self._steps < self._layout.cue.arrival

    @property
    def command(self) -> np.ndarray:
        """The last commanded joint target, radians [6]."""
        return self._command

    def state(self) -> np.ndarray:
        """Measured joint positions in normalised units, float32 [6]."""
        return to_units(self.data.qpos[self._joints])

    @property
    def gripper_position(self) -> np.ndarray:
        """The point between the jaws, [3]."""
        return self._gripper.xpos.copy()

    @property
    def cube_position(self) -> np.ndarray:
        return self._cube.qpos[:3].copy()

    @property
    def cube_speed(self) -> float:
        return float(np.linalg.norm(self._cube.qvel[:3]))

    def box_position(self, name: str) -> np.ndarray:
        """The centre of a box's floor, [3]."""
        return self.data.mocap_pos[self._boxes[name]].copy()

    def over_box(self, name: str) -> bool:
        """Whether the cube's centre is above the inside of this box."""
        offset = self.cube_position[:2] - self.box_position(name)[:2]
        return bool(np.abs(offset).max() < BOX_HALF - WALL)

    def in_box(self, name: str) -> bool:
        """Whether the cube lies below the rim of this box."""
        return self.over_box(name) and self.cube_position[2] < BOX_HEIGHT + CUBE_HALF / 2

    def jaw_contacts(self) -> tuple[bool, bool]:
        """Whether the cube touches the fixed and the moving jaw."""
        pairs = self.data.contact.geom
        touching = set(self.model.geom_bodyid[pairs[(pairs == self.model.geom("cube").id).any(axis=1)].ravel()])
        return self.model.body(_FIXED_JAW).id in touching, self.model.body(_MOVING_JAW).id in touching

    def render(self, camera: str, size: int = IMAGE_SIZE) -> np.ndarray:
        """A camera's view, uint8 [size, size, 3]."""
        renderer = _renderer(size)
        renderer.update_scene(self.data, camera_named(camera))
        return renderer.render().copy()


def camera_named(name: str) -> str:
    """The model's name of this camera; raises :class:`SigmaError` for an unknown one."""
    if name not in CAMERAS:
        raise SigmaError(f"camera {name!r} does not exist in the simulator; the cameras are {', '.join(CAMERAS)}")
    return CAMERAS[name]


@functools.cache
def _renderer(size: int) -> mujoco.Renderer:
    try:
        renderer = mujoco.Renderer(build_model(), size, size)
    except (AttributeError, ImportError, RuntimeError, mujoco.FatalError):
        raise SigmaError(
            "the simulator cannot render: no off-screen GL library; on Debian or Ubuntu install libosmesa6"
        ) from None
    effects = mujoco.mjtRndFlag
    for effect in (effects.mjRND_SHADOW, effects.mjRND_REFLECTION, effects.mjRND_SKYBOX):
        renderer.scene.flags[effect] = 0
    return renderer
