"""What ``meta/info.json`` of a LeRobotDataset says of joints and cameras, and where it says that files lie."""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath
from typing import Any

from sigma.shared.errors import SigmaError

STATE, ACTION = "observation.state", "action"


class MissingFile(SigmaError):
    """A file that the metadata names is not there."""


@dataclass(frozen=True)
class Camera:
    """How a camera's frames are stored: ``kind`` is ``video`` (mp4) or ``image`` (encoded inside the table)."""

    height: int
    width: int
    kind: str


def read_joint_names(features: dict[str, Any], info: Path) -> tuple[str, ...]:
    """Names of the joints, which state and action share; ``info`` is what an error calls the file.

    The names are the action's, or the state's where only those are given; ``joint_0`` … where neither has any.
    """
    joints: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    for key in (STATE, ACTION):
        feature = features.get(key)
        shape = _shape(feature)
        if not isinstance(feature, dict) or len(shape) != 1:
            found = f"found shape {shape}" if shape else "found none"
            vectors = [name for name, other in features.items() if len(_shape(other)) == 1 and _is_float(other)]
            advice = f"; name it in params.yaml: fetch.dataset.keys: {{{key}: NAME}}; the dataset's vectors are "
            raise SigmaError(
                f"{info}: features.{key}: a vector is needed, {found}"
                + (advice + ", ".join(vectors) if vectors and key not in features else "")
            )
        names = feature.get("names")
        sizes[key] = shape[0]
        named = names if isinstance(names, list | dict) else []  # any other form names no joint
        for flat in (_flat_names(named), _flat_names(named, grouped=True)):
            if len(set(flat)) == len(flat) == shape[0]:
                joints[key] = tuple(flat)
                break
    if sizes[STATE] != sizes[ACTION]:
        raise SigmaError(
            f"{info}: {STATE} has {sizes[STATE]} values and {ACTION} {sizes[ACTION]}; only datasets whose action sets "
            "the joints that the state measures are read: record both from the same joints, or write a copy of the "
            "dataset whose state has the action's joints alone"
        )
    if len(joints) == 2 and (place := _misplaced(joints[STATE], joints[ACTION])) is not None:
        raise SigmaError(
            f"{info}: value {place} is {joints[STATE][place]!r} in {STATE} and {joints[ACTION][place]!r} in {ACTION}; "
            "state and action must list their joints in the same order"
        )
    return joints.get(ACTION) or joints.get(STATE) or tuple(f"joint_{index}" for index in range(sizes[ACTION]))


def _misplaced(state: Sequence[str], action: Sequence[str]) -> int | None:
    """The first place whose name in the state is clearly another joint's in the action; names may differ a little."""
    for place, name in enumerate(state):
        alike = [SequenceMatcher(None, name.lower(), other.lower()).ratio() for other in action]
        if max(alike) > alike[place] + 0.1:
            return place
    return None


def _flat_names(names: Any, grouped: bool = False, group: str = "") -> list[str]:
    """The names in any form that LeRobot has written: a list, lists within a list or by group, or places by name.

    With ``grouped`` a name begins with that of its group, for two arms whose joints have equal names.
    """
    if isinstance(names, dict) and all(type(place) in (int, float) for place in names.values()):
        names = sorted(names, key=names.__getitem__)
    if isinstance(names, dict):
        return [name for key, part in names.items() for name in _flat_names(part, grouped, f"{group}{key}.")]
    if isinstance(names, list):
        groups = [f"{group}{place}." if isinstance(part, list) else group for place, part in enumerate(names)]
        return [name for part, of in zip(names, groups, strict=True) for name in _flat_names(part, grouped, of)]
    return [f"{group}{names}" if grouped else str(names)]


def renamed(features: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same features in the same order, some by other ``names``."""
    return {names.get(name, name): feature for name, feature in features.items()}


def _is_float(feature: Any) -> bool:
    return isinstance(feature, dict) and str(feature.get("dtype")).startswith("float")


def _shape(feature: Any) -> list[int]:
    """The shape of a feature; empty where it is no list of positive whole numbers."""
    shape = feature.get("shape") if isinstance(feature, dict) else None
    if not isinstance(shape, list) or not all(type(size) is int and 0 < size < 2**31 for size in shape):
        return []
    return shape


def read_cameras(features: dict[str, Any], info: Path) -> tuple[dict[str, Camera], dict[str, str]]:
    """The colour cameras by feature name, and why each other camera cannot be used."""
    cameras, unusable = {}, {}
    for key, feature in features.items():
        kind = feature.get("dtype") if isinstance(feature, dict) else None
        if kind not in ("video", "image"):
            continue
        shape, place = _shape(feature), f"{info}: features.{key}"
        if any(_is_depth_map(feature.get(details)) for details in ("info", "video_info")):
            unusable[key] = f"{place}: a depth map"
        elif len(shape) != 3 or 3 not in (shape[0], shape[-1]):
            unusable[key] = f"{place}: expected height, width and 3 channels, found {feature.get('shape')!r}"
        else:
            height, width = shape[:2] if shape[-1] == 3 else shape[1:]
            cameras[key] = Camera(height, width, kind)
    if not cameras:
        found = "; found " + "; ".join(unusable.values()) if unusable else ""
        raise SigmaError(f"{info}: the dataset has no camera; features of dtype video or image are needed{found}")
    return cameras, unusable


def _is_depth_map(details: Any) -> bool:
    return isinstance(details, dict) and bool(details.get("is_depth_map") or details.get("video.is_depth_map"))


def named_file(root: Path, info: Mapping[str, Any], where: str, **fields: Any) -> str:
    """The file that the template at ``info[where]`` names, relative to the root.

    A file that leaves the folder is refused; a missing one raises :class:`MissingFile`.
    """
    template = info.get(where)
    if not isinstance(template, str) or not _is_template(template, fields):
        raise SigmaError(f"{root}/meta/info.json: {where}: not a path template: {template!r}")
    name = template.format(**fields)
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise SigmaError(f"{root}/meta/info.json: {where}: {name!r} leaves the dataset's folder")
    try:
        exists = (root / name).is_file()
    except OSError:  # a name that no file can have
        exists = False
    if not exists:
        raise MissingFile(f"{root}/{name}: not found, but the metadata names it; the dataset is incomplete")
    return name


def _is_template(template: str, fields: dict[str, Any]) -> bool:
    """Whether a template uses these fields alone, plain or with a number of digits."""
    # Any other format could read attributes of what it is given, or fill the memory.
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return False
    return all(
        field is None or (field in fields and not conversion and re.fullmatch(r"(0?\d{1,2})?d?", form or ""))
        for _, field, form, conversion in parts
    )
