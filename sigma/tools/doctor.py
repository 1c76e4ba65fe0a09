"""``sigma doctor``: what a dataset and a base are, what to set for them, and what would be refused; nothing is copied.

The checks are those of the stages themselves, on the metadata alone, so that they take seconds.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sigma.data.audit.checks.units import outward, shortfall
from sigma.data.dataset.dataset import ACTION, STATE, Dataset
from sigma.data.dataset.fit import LEAST_HELD_OUT, check_fit, held_out_counts
from sigma.data.dataset.layout import renamed
from sigma.data.dataset.origin import find_dataset
from sigma.parameters import Parameters, read_parameters
from sigma.parameters.schema import read_yaml
from sigma.policy.pi05.description import describe_facts
from sigma.shared.errors import SigmaError
from sigma.tools.profile import leaves, text_of, write_values

# As the audit's outside_range, small_values and still_joint fail: shares of audit.joint_range, and a factor.
OUTSIDE, SHORT, STILL = 0.2, 10.0, 0.01
_SIDES = {"left", "right"}
_WORDS = ({"wrist", "hand", "gripper", "eye"}, _SIDES)
UNITS = {"radians": np.pi, "LeRobot's normalised units": 100.0, "degrees": 360.0}


def run(parameters: Parameters, *, dataset: str, base: str, write: Path | None = None) -> tuple[str, bool]:
    """The report on a dataset and a base, and whether every stage would take them with the settings in it.

    Both are folders, ``embedded``, or Hub ids as ``owner/name@commit``. Into the parameter file ``write`` the settings
    are written where nothing is refused. Raises :class:`SigmaError` where one of the two cannot be read at all.
    """
    keys = parameters.fetch.dataset.keys
    (source, revision), (origin, commit) = map(_pinned, (dataset, base))
    found = find_dataset(source, revision, Path("data/dataset"), keys)
    facts = describe_facts(origin, commit, len(found.joint_names), found.tasks)
    data = {"source": source, "revision": revision, "keys": dict(keys)}
    settings: dict[str, Any] = {"fetch": {"dataset": data, "base": {"source": origin, "revision": commit}}}
    stored = renamed(found.stored_statistics(), {own: name for name, own in keys.items()})
    settings |= _settings(found, facts, parameters, stored)
    if source != "embedded":  # the shipped names are of the shipped instructions
        settings["report"] = {"tasks": []}
    refused = ""
    try:
        values = parameters.model_dump(mode="json")
        values = {name: section | settings.get(name, {}) for name, section in values.items()}
        chosen = read_parameters(Path("params.yaml"), values)
        check_fit(found, facts, chosen)
    except SigmaError as error:
        refused = str(error)
    head = "set in params.yaml (these keys; the others of a section stay as they are):"
    lines = [*_facts(found, facts, stored, parameters), head, text_of(settings).rstrip()]
    lines.append(f"refused: {refused}" if refused else "no stage refuses these two by what their metadata say")
    if write is not None and not refused:
        before = dict(leaves(read_yaml(write)))
        changed = {key: value for key, value in leaves(settings) if before.get(key) != value}
        write_values(write, changed)
        lines.append(f"written into {write}: {len(changed)} values changed")
    return "\n".join(lines), not refused


def _pinned(address: str) -> tuple[str, str | None]:
    """A folder or an id, and the commit behind its last ``@``."""
    source, at, commit = address.rpartition("@")
    return (source, commit) if at and not Path(address).expanduser().exists() else (address, None)


def _facts(
    dataset: Dataset, base: Mapping[str, Any], stored: Mapping[str, Any], parameters: Parameters
) -> Iterable[str]:
    cameras = ", ".join(f"{name} {camera.height}×{camera.width}" for name, camera in dataset.cameras.items())
    counts = (
        f"{len(dataset.episodes)} episodes, {dataset.frames} frames at {dataset.fps} Hz, {len(dataset.tasks)} tasks"
    )
    yield f"dataset: {counts}"
    yield f"  joints: {', '.join(dataset.joint_names)}; their range looks like {_unit(stored)}"
    yield from _still(dataset, stored, parameters)
    yield f"  cameras: {cameras}"
    yield f"base: {base['type']}, {base['chunk_size']} steps a chunk, images of {base['resolution']} pixels a side"
    yield f"  cameras: {', '.join(base['cameras'])}"
    yield f"  statistics: {'its own' if base['statistics'] else 'none of these joints'}"


def _extremes(stored: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """The lowest and highest value of each joint, state and action together; None where it is not stored."""
    columns = [stored.get(feature, {}) for feature in (STATE, ACTION)]
    if not all({"min", "max"} <= column.keys() for column in columns):
        return None
    low, high = (np.array([np.ravel(column[name]) for column in columns]) for name in ("min", "max"))
    return low.min(axis=0), high.max(axis=0)


def _still(dataset: Dataset, stored: Mapping[str, Any], parameters: Parameters) -> Iterable[str]:
    extremes, legal = _extremes(stored), parameters.audit.joint_range
    if extremes is None or _unit(stored) != "LeRobot's normalised units":
        return
    for name, travel in zip(dataset.joint_names, extremes[1] - extremes[0], strict=True):
        if travel < STILL * (legal.upper - legal.lower) and name not in parameters.window.exclude_joints:
            yield f"  {name} moves by {travel:.3g} in all: where it stands still, name it in window.exclude_joints"


def _unit(stored: Mapping[str, Any]) -> str:
    found = _extremes(stored)
    if found is None:
        return "nothing: meta/stats.json does not say it"
    reach = np.maximum(-found[0], found[1])
    if np.median(reach) <= UNITS["radians"] < reach.max() <= 100:
        return "radians, but for some joint"
    extremes = float(found[0].min()), float(found[1].max())
    return next((unit for unit, most in UNITS.items() if max(map(abs, extremes)) <= 1.02 * most), "none of an arm's")


def _pair_cameras(have: list[str], want: list[str]) -> dict[str, str | None]:
    """A camera of the dataset, or none, for each of the base's that the dataset lacks: the most alike by their words,
    and where no word tells, those that are left in their order."""
    pairs: dict[str, str | None] = {}
    free, open_ = ([name for name in names if name not in others] for names, others in ((have, want), (want, have)))
    likeness = {(mine, theirs): _alike(mine, theirs) for mine in open_ for theirs in free}
    for (mine, theirs), score in sorted(likeness.items(), key=lambda item: -item[1]):
        if score > 0 and mine not in pairs and theirs in free:
            pairs[mine] = theirs
            free.remove(theirs)
    for mine in open_:
        if mine not in pairs:
            fits = [theirs for theirs in free if likeness[mine, theirs] == 0]
            pairs[mine] = fits[0] if fits else None
            free = [theirs for theirs in free if theirs != pairs[mine]]
    return {mine: pairs[mine] for mine in open_}


def _alike(first: str, second: str) -> int:
    """Words that two cameras' names share less those that contradict each other."""
    words = [set(re.split(r"[._\W\d]+", name.lower().rpartition(".")[2])) for name in (first, second)]
    both, score = words[0] & words[1], 0
    for group in _WORDS:
        hits = [group & name for name in words]
        if hits[0] and hits[1]:
            score += 1 if group is not _SIDES or hits[0] == hits[1] else -1
        elif (hits[0] or hits[1]) and group is not _SIDES:
            score -= 1
    return score + len(both - set().union(*_WORDS) - {"", "rgb", "image", "images", "camera", "cam"})


def _settings(
    dataset: Dataset, base: Mapping[str, Any], parameters: Parameters, stored: Mapping[str, Any]
) -> dict[str, Any]:
    """The values that these two need, by section, where those of ``parameters`` would not do."""
    settings: dict[str, dict[str, Any]] = {}
    window: dict[str, Any] = {"cameras": _pair_cameras(list(dataset.cameras), base["cameras"])}
    if parameters.window.horizon > base["chunk_size"]:
        window["horizon"] = base["chunk_size"]
    episodes = len(dataset.episodes)
    try:
        held_out_counts(parameters.window.validation, parameters.window.test, episodes)
    except SigmaError:  # an eighth to choose and calibrate by, two fifths to score
        window |= {"validation": max(LEAST_HELD_OUT["validation"], episodes // 8), "test": max(1, episodes * 2 // 5)}
    settings["window"] = window
    if base["statistics"] is None:
        settings["base"] = {"statistics": "dataset"}
    if base["source"] != "embedded":  # the shipped ones are the shipped base's
        settings["base"] = settings.get("base", {}) | {"instructions": []}
    extremes, legal = _extremes(stored), parameters.audit.joint_range
    if extremes:
        low, high = float(extremes[0].min()), float(extremes[1].max())
        beyond = max(legal.lower - low, high - legal.upper) / (legal.upper - legal.lower)
        if beyond > OUTSIDE or shortfall(low, high, legal.lower, legal.upper) > SHORT:
            settings["audit"] = {"joint_range": {"lower": min(outward(low), 0.0), "upper": max(outward(high), 0.0)}}
    return settings
