"""The compiled scene: MuJoCo Menagerie's SO-101 as packaged by ``so101-nexus``, a table, a cube, boxes and a lamp.

Table, cube, boxes, lamp and the top camera are our own design. Lengths are metres, angles radians.
"""

import functools
from pathlib import Path

import numpy as np

from sigma.simulation.gl import mujoco, so101_nexus

BOXES = ("red", "blue")

PHYSICS_HZ = 300

CUBE_HALF = 0.0125
CUBE_MASS = 0.012
BOX_HALF = 0.036  # outer half width; the inner one is smaller by WALL
BOX_HEIGHT = 0.022
WALL = 0.003

# A far, narrow top camera, tilted towards the robot from the front so that the arm hides little of the table.
_UP_DISTANCE, _UP_TILT, _UP_FIELD, _UP_CENTRE = 1.2, 0.5, 0.37, (0.195, 0.0, 0.02)
_CLUSTER = 0.003
_COLOURS = {"red": (0.85, 0.08, 0.08, 1), "blue": (0.08, 0.16, 0.85, 1), "cube": (0.05, 0.75, 0.15, 1)}
_LIGHT = (1.0, 0.9, 0.1, 1)
_LAMP_HALF = (BOX_HALF - WALL, BOX_HALF - WALL, 0.0005)  # the whole floor of a box


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


def _add_lamp(spec: mujoco.MjSpec) -> None:
    """A plate that shines of itself and touches nothing, on a mocap body; it waits under the table until it is lit."""
    shining = spec.add_material(name="lamp", emission=1.0, specular=0.0, rgba=_LIGHT)
    lamp = spec.worldbody.add_body(name="lamp", mocap=True, pos=[0, 0, -1])
    box = mujoco.mjtGeom.mjGEOM_BOX
    lamp.add_geom(type=box, size=_LAMP_HALF, material=shining.name, contype=0, conaffinity=0)


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
    _add_lamp(spec)
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
