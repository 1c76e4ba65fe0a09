"""The JSON records that stages hand to each other: what each must hold, checked where it is read.

A form is a type (or several), a mapping of keys to forms, or a list of one form for every entry; further keys are let
be. :data:`POSITIVE` is a number above 0.
"""

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short
from types import NoneType
from typing import Any

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json

AGAIN = "run the stage that writes it again (dvc repro)"
NUMBER = (int, float)
POSITIVE = object()
ORIGIN = {"source": str, "revision": (str, NoneType), "digest": str}
QUANTILES = {"q01": [NUMBER], "q99": [NUMBER], "eps": NUMBER}

BASE = ORIGIN | {
    "cameras": [str],
    **dict.fromkeys(("resolution", "state_dim", "action_dim", "chunk_size", "num_steps"), int),
    "tensors": dict,
}
"""``data/base.json``."""
EPISODES = {"used": [int], "excluded": dict}
"""``data/episodes.json``."""
REPLAY = {
    "normalisation": {"observation.state": QUANTILES, "action": QUANTILES},
    "statistics": str,
    "action": str,
    **dict.fromkeys(("samples", "seed", "num_steps"), int),
}
FEATURES = REPLAY | {
    "base_digest": str,
    "dtype": str,
    "token_rms": NUMBER,
    **dict.fromkeys(("frames", "pools", "width"), int),
}
"""``data/features/meta.json``; the report reads no more of it than :data:`REPLAY`."""
_PASS = {"digest": str, "tensors": int, **dict.fromkeys(("mean", "std", "rms"), NUMBER)}
HEADS = {"sigma": _PASS, "control": _PASS}
"""``data/predictions/heads.json``."""
PREDICTED = {
    **dict.fromkeys(("horizon", "chunk"), int),
    "fps": NUMBER,
    **{key: [str] for key in ("joint_names", "exclude_joints", "tasks")},
    "dataset": ORIGIN,
}
SHARDS = PREDICTED | {
    **dict.fromkeys(("chunk_size", "history", "history_stride", "trace", "resolution"), int),
    "cameras": [str],
    "statistics": {feature: {"q01": [NUMBER], "q99": [NUMBER]} for feature in ("observation.state", "action")},
    "shards": [{"name": str, "sha256": str, **dict.fromkeys(("bytes", "frames", "windows"), int)}],
    "windows_sha256": str,
}
"""``data/shards/meta.json``; the report reads no more of it than :data:`PREDICTED`."""


def read_record(path: Path, form: Mapping[str, Any], advice: str = AGAIN) -> dict[str, Any]:
    """Read a JSON file and check it; raises :class:`SigmaError` that names file, key and what is needed there."""
    record = read_json(path)
    check_record(record, form, f"{path}: ", advice)
    return record


def check_record(value: Any, form: Any, source: str, advice: str, place: str = "") -> None:
    """Raise :class:`SigmaError`, which begins with ``source``, where ``value`` is not of this form."""
    if isinstance(form, Mapping):
        _check_type(value, dict, source, advice, place)
        for key, inner in form.items():
            where = f"{place}.{key}" if place else key
            if key not in value:
                raise SigmaError(f"{source}key {where!r} is missing; {advice}")
            check_record(value[key], inner, source, advice, where)
    elif isinstance(form, list):
        _check_type(value, list, source, advice, place)
        for index, entry in enumerate(value):
            check_record(entry, form[0], source, advice, f"{place}.{index}")
    elif form is POSITIVE:
        _check_type(value, NUMBER, source, advice, place)
        if not 0 < value < float("inf"):
            raise SigmaError(f"{source}{place}: found {value}; legal: a positive number; {advice}")
    else:
        _check_type(value, form, source, advice, place)


def _check_type(value: Any, types: type | tuple[type, ...], source: str, advice: str, place: str) -> None:
    if isinstance(value, types) and (not isinstance(value, bool) or types is bool):
        return
    names = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a number", NoneType: "null"}
    several = types if isinstance(types, tuple) else (types,)
    wanted = "a number" if several == NUMBER else " or ".join(names.get(one, one.__name__) for one in several)
    found = type(value).__name__ if isinstance(value, dict | list) else short(value)
    raise SigmaError(f"{source}{place + ': ' if place else ''}expected {wanted}, found {found}; {advice}")
