"""Whether dataset, base and parameters fit together, so far as the metadata tells: asked before anything is decoded."""

from collections.abc import Mapping
from typing import Any

from sigma.data.dataset.dataset import Dataset
from sigma.parameters import Parameters
from sigma.shared.errors import SigmaError
from sigma.shared.quantiles import check_still_joints

# The adapter compares a validation window with those of other validation episodes; scores are those of test episodes.
LEAST_HELD_OUT = {"validation": 2, "test": 1}


def check_fit(dataset: Dataset, base: Mapping[str, Any], parameters: Parameters, further: int = 0) -> None:
    """Raise :class:`SigmaError` where ``parameters`` ask for what ``dataset`` or ``base`` does not have.

    ``base`` is the record of ``data/base.json``; none of the last ``further`` episodes is held out.
    """
    window, statistics = parameters.window, parameters.base.statistics
    choose_cameras(base, dataset, window.cameras)
    if window.horizon > base["chunk_size"]:
        raise SigmaError(
            f"params.yaml: window.horizon: {window.horizon} steps, but the base predicts {base['chunk_size']}; "
            f"legal: 1 to {base['chunk_size']}"
        )
    joints = dataset.joint_names
    for key in ("action_dim", "state_dim"):
        if len(joints) > base[key]:
            raise SigmaError(f"{dataset.root}: {len(joints)} joints, but the base takes at most {base[key]} ({key})")
    unknown = sorted(set(window.exclude_joints) - set(joints))
    if unknown:
        raise SigmaError(f"params.yaml: window.exclude_joints: no joint {unknown[0]!r}; legal: {', '.join(joints)}")
    if set(window.exclude_joints) >= set(joints):
        raise SigmaError("params.yaml: window.exclude_joints: every joint is left out of the scores; keep one")
    own = range(len(dataset.episodes) - further)
    held_out_counts(window.validation, window.test, len(set(own) - set(parameters.audit.exclude)))
    longest = max((dataset.episodes[episode].length for episode in own), default=0)
    if longest < window.horizon:
        raise SigmaError(
            f"params.yaml: window.horizon: {window.horizon} frames, but the longest episode has {longest}; "
            f"legal here: 1 to {longest}"
        )
    if statistics == "checkpoint" and base["statistics"] is None:
        raise SigmaError(
            "params.yaml: base.statistics: found checkpoint, but the base was published without statistics of these "
            "joints; legal here: dataset"
        )
    if statistics == "checkpoint":
        check_still_joints(base, joints, window.exclude_joints, dataset.stored_statistics())


def choose_cameras(base: Mapping[str, Any], dataset: Dataset, mapping: Mapping[str, str | None]) -> dict[str, str]:
    """Base camera → dataset camera, in the base's order; a base camera mapped to null is left out."""
    unknown = sorted(set(mapping) - set(base["cameras"]))
    if unknown:
        raise SigmaError(
            f"params.yaml: window.cameras.{unknown[0]}: no camera of the base; legal: {', '.join(base['cameras'])}"
        )
    chosen = {}
    for camera in base["cameras"]:
        replacement = mapping.get(camera, camera)
        if replacement is None:
            continue
        if replacement not in dataset.cameras:
            fault = f"the dataset has no {replacement!r}"
            if replacement in dataset.unusable:
                fault = f"{replacement!r} cannot be used ({dataset.unusable[replacement]})"
            raise SigmaError(
                f"params.yaml: window.cameras.{camera}: the base needs this camera and {fault}; "
                f"legal: {', '.join(['null (left out)', *dataset.cameras])}"
            )
        chosen[camera] = replacement
    if not chosen:
        raise SigmaError("params.yaml: window.cameras: every camera of the base is left out; keep one")
    return chosen


def held_out_counts(validation: int | float, test: int | float, episodes: int) -> dict[str, int]:
    """How many of ``episodes`` are held out for test and for validation, from counts (int) or fractions (float).

    Raises :class:`SigmaError` where these are too few to calibrate and to score, unless both are 0, which cuts windows
    to count them alone; and where none would be left for training.
    """
    counts = {
        name: value if isinstance(value, int) else max(1, round(value * episodes))
        for name, value in (("test", test), ("validation", validation))
    }
    for name, least in LEAST_HELD_OUT.items():
        if any(counts.values()) and counts[name] < least:
            raise SigmaError(
                f"params.yaml: window.{name}: {counts[name]} of {episodes} episodes; legal: at least {least} (or 0 for "
                "both window.validation and window.test, to count windows and train nothing)"
            )
    if sum(counts.values()) >= episodes:
        raise SigmaError(
            f"params.yaml: window.validation + window.test: {counts['validation']} + {counts['test']} episodes "
            f"leave none of {episodes} for training; legal: together at most {episodes - 1}"
        )
    return counts
