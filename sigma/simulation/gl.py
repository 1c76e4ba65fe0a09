"""The one place that imports MuJoCo and the robot's model, after it has chosen an off-screen GL library.

MuJoCo reads the choice once, when it is imported. Importing this raises :class:`SigmaError` where one is not installed.
"""

import ctypes.util
import os

from sigma.shared.errors import SigmaError


def _select_gl() -> None:
    """Set ``MUJOCO_GL`` where neither it nor a screen is there. Without a library physics still works, and rendering
    says what to install."""
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return
    libraries = (("osmesa", "OSMesa"), ("egl", "EGL"))
    os.environ["MUJOCO_GL"] = next((gl for gl, library in libraries if ctypes.util.find_library(library)), "disable")


_select_gl()

try:
    import mujoco
    import so101_nexus
except ModuleNotFoundError as error:
    raise SigmaError(
        f"the simulator needs the package {error.name}: install lerobot_policy_sigma[simulation]"
    ) from None

__all__ = ["mujoco", "so101_nexus"]
