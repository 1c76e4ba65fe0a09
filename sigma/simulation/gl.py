"""The one place that imports MuJoCo, after it has chosen an off-screen GL library: MuJoCo reads the choice once."""

import ctypes.util
import os


def _select_gl() -> None:
    """Set ``MUJOCO_GL`` where neither it nor a screen is there. Without a library physics still works, and rendering
    says what to install."""
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return
    libraries = (("osmesa", "OSMesa"), ("egl", "EGL"))
    os.environ["MUJOCO_GL"] = next((gl for gl, library in libraries if ctypes.util.find_library(library)), "disable")


_select_gl()

import mujoco  # noqa: E402

__all__ = ["mujoco"]
