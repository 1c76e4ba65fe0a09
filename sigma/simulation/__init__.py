"""The simulated SO-101: scene, tasks, scripted expert, recording and closed-loop rollouts."""

import ctypes.util
import os


def _select_gl() -> None:
    """Choose an off-screen GL library here, before any module of this package imports MuJoCo, which reads it once.

    Without one, physics still works and rendering says what to install.
    """
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return
    libraries = (("osmesa", "OSMesa"), ("egl", "EGL"))
    os.environ["MUJOCO_GL"] = next((gl for gl, library in libraries if ctypes.util.find_library(library)), "disable")


_select_gl()
