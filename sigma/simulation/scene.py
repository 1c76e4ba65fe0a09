"""The simulated world: an SO-101 arm at a table with one cube and two open boxes, seen by two cameras.

The robot is MuJoCo Menagerie's SO-101 as packaged by ``so101-nexus``; table, cube, boxes and the top camera are added
here (own design). Lengths are metres and angles radians inside the simulator. Everything outside of it speaks LeRobot's
normalised joint units: each joint's range maps linearly to [-100, 100], the gripper's to [0, 100].
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sigma.shared.errors import SigmaError
from sigma.simulation.gl import mujoco, so101_nexus

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FEATURE_NAMES = tuple(f"{joint}.pos" for joint in JOINTS)
CAMERAS = {"up": "up", "wrist": "wrist_cam"}  # our name -> the camera's name in the model
IMAGE_SIZE = 96
BOXES = ("red", "blue")

PHYSICS_HZ = 300
TICK_HZ = 30  # a control step's target is interpolated linearly over these ticks, as a servo loop would
CONTROL_HZ = 10

CUBE_HALF = 0.0125
CUBE_MASS = 0.012
BOX_HALF = 0.036  # outer half width; the inner one is smaller by WALL
BOX_HEIGHT = 0.022
WALL = 0.003
_FIXED_JAW, _MOVING_JAW = "gripper", "moving_jaw_so101_v1"  # bodies of the model
_JAW_OFFSET = 0.0065  # from the gripper frame to the centre of a cube that touches the fixed jaw
PAN_AXIS = np.array([0.0388353, 0.0])  # where the shoulder's vertical axis meets the table

# A far, narrow top camera, tilted towards the robot from the front so that the arm hides little of the table.
_UP_DISTANCE, _UP_TILT, _UP_FIELD, _UP_CENTRE = 1.2, 0.5, 0.37, (0.195, 0.0, 0.02)
_CLUSTER = 0.003
_COLOURS = {"red": (0.85, 0.08, 0.08, 1), "blue": (0.08, 0.16, 0.85, 1), "cube": (0.05, 0.75, 0.15, 1)}


def _clustered(path: Path, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a binary STL after merging all vertices that share a cubic cell.

    Vertex clustering as in Rossignac and Borrel (1993). Software rendering time grows with the triangle count, and the
    packaged meshes are CAD exports.
    """
    facet = np.dtype([("normal", "<f4", 3), ("vertices", "<f4", (3, 3)), ("attribute", "<u2")])
    raw = path.read_bytes()
    facets = np.frombuffer(raw, facet, count=int.from_bytes(raw[80:84], "little"), offset=84)
    corners = facets["vertices"].reshape(-1, 3)
    cells, index = np.unique(np.floor(corners / cell).astype(np.int64), axis=0, return_inverse=True)
    index = index.reshape(-1)
    count = np.bincount(index, minlength=len(cells))[:, None]
    vertices = np.stack([np.bincount(index, corners[:, axis], len(cells)) for axis in range(3)], axis=1) / count
    faces = index.reshape(-1, 3)
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (a != c)]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return vertices, faces[np.sort(first)]


def _simplify_visuals(spec: mujoco.MjSpec, folder: Path) -> None:
    collision = {geom.meshname for geom in spec.geoms if geom.meshname and geom.contype}
    for mesh in spec.meshes:
        name = mesh.name or Path(mesh.file).stem
        # The camera mount has a mass and no explicit inertia: its mesh takes part in the dynamics.
        if name in collision or name.endswith("camera_mount"):
            continue
        vertices, faces = _clustered(folder / mesh.file, _CLUSTER)
        mesh.name, mesh.file = name, ""
        mesh.uservert, mesh.userface = vertices.ravel().tolist(), faces.ravel().tolist()
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL


def _add_box(spec: mujoco.MjSpec, name: str) -> None:
    """An open tray on a mocap body, so that every episode can place it without another model."""
    body = spec.worldbody.add_body(name=f"{name}_box", mocap=True)
    wall, half, height = WALL / 2, BOX_HALF, BOX_HEIGHT / 2
    floor = ((half, half, 0.001), (0, 0, 0.001))
    across = [((wall, half, height), (side * (half - wall), 0, height)) for side in (-1, 1)]
    along = [((half, wall, height), (0, side * (half - wall), height)) for side in (-1, 1)]
    for size, pos in (floor, *across, *along):
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=pos, rgba=_COLOURS[name])


@functools.cache
def build_model() -> mujoco.MjModel:
    """The compiled scene. One model serves every world of a process: what varies lives in the data."""
    path = so101_nexus.get_so101_mujoco_model_path()
    spec = mujoco.MjSpec.from_file(str(path))
    _simplify_visuals(spec, path.parent / spec.meshdir)
    spec.option.timestep = 1 / PHYSICS_HZ
    spec.option.noslip_iterations = 3
    spec.visual.quality.offsamples = 0
    spec.visual.headlight.ambient = [0.4] * 3
    spec.visual.headlight.diffuse = [0.3] * 3
    spec.visual.headlight.specular = [0.0] * 3
    world = spec.worldbody
    sun = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    world.add_light(pos=[0.2, 0.3, 1.5], dir=[0, -0.2, -1], type=sun, diffuse=[0.35] * 3)
    world.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05], rgba=[0.55, 0.53, 0.5, 1])
    for name in BOXES:
        _add_box(spec, name)
    cube = world.add_body(name="cube", pos=[0.25, 0, CUBE_HALF])
    cube.add_freejoint(name="cube")
    cube.add_geom(
        name="cube", type=mujoco.mjtGeom.mjGEOM_BOX, size=[CUBE_HALF] * 3, mass=CUBE_MASS, rgba=_COLOURS["cube"],
        friction=[1.0, 5e-3, 5e-4], condim=4,
    )  # fmt: skip
    sine, cosine = np.sin(_UP_TILT), np.cos(_UP_TILT)
    world.add_camera(
        name="up", pos=np.array(_UP_CENTRE) + _UP_DISTANCE * np.array([sine, 0, cosine]),
        xyaxes=[0, 1, 0, -cosine, 0, sine], fovy=float(np.degrees(2 * np.arctan(_UP_FIELD / 2 / _UP_DISTANCE))),
    )  # fmt: skip
    return spec.compile()


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
class Layout:
    """An episode's start: cube ``(x, y, yaw)``, boxes ``(x, y)``, joints in radians, and whether the cube is held."""

    cube: tuple[float, float, float]
    boxes: dict[str, tuple[float, float]]
    joints: tuple[float, ...]
    held: bool = False


class World:
    """One simulated scene: physics, privileged poses and rendering. Worlds of a process share model and renderer."""

    def __init__(self) -> None:
        self.model = build_model()
        self.data = mujoco.MjData(self.model)
        self._joints = np.array([self.model.joint(name).qposadr[0] for name in JOINTS])
        self._boxes = {name: self.model.body(f"{name}_box").mocapid[0] for name in BOXES}
        # Views of the data: they always show the present.
        self._cube, self._gripper = self.data.joint("cube"), self.data.site("gripperframe")
        self._command: np.ndarray = np.zeros(6)

    def reset(self, layout: Layout) -> None:
        """Place everything and let it settle; with ``held`` the gripper closes on the cube in mid-air."""
        data = self.data
        mujoco.mj_resetData(self.model, data)
        self._command = np.array(layout.joints, np.float64)
        data.qpos[self._joints] = self._command
        for name, (x, y) in layout.boxes.items():
            data.mocap_pos[self._boxes[name]] = (x, y, 0)
        x, y, yaw = layout.cube
        self._cube.qpos[:] = (x, y, CUBE_HALF, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        data.ctrl[:] = self._command
        mujoco.mj_forward(self.model, data)
        if layout.held:
            self._grasp()
        mujoco.mj_step(self.model, data, nstep=PHYSICS_HZ // 5)
        mujoco.mj_forward(self.model, data)

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
        mujoco.mj_forward(self.model, self.data)
        self._command = target

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
