"""The JSON records that stages pass to each other: the form of each, checked when it is read.

A form is a mapping of keys to forms, a list of one form that every entry has, or any type that pydantic can check.
Types are strict (``True`` is no number, ``1.0`` no whole number); keys that a form does not name are not looked at.
"""

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic_core import SchemaValidator, ValidationError, core_schema

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json

AGAIN = "run the stage that writes it again (dvc repro)"
NUMBER = Annotated[float, Field(allow_inf_nan=False)]
POSITIVE = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# What pydantic's errors ask for, in the words of this project's other messages; the rest keep pydantic's.
EXPECTED = dict(
    dict_type="a mapping", list_type="a list", string_type="text", int_type="a whole number", float_type="a number"
)
ORIGIN = {"source": str, "revision": str | None, "digest": str}
QUANTILES = {"q01": [NUMBER], "q99": [NUMBER], "eps": NUMBER}
_JOINED = ORIGIN | {"further": [ORIGIN | {"episodes": int, "corrections": bool}]}
DATASET = _JOINED | {"episodes": int}
"""``data/dataset.json``."""
_RANGE = {"q01": [NUMBER], "q99": [NUMBER]}

BASE = ORIGIN | {
    "cameras": [str],
    **dict.fromkeys(("resolution", "state_dim", "action_dim", "chunk_size", "num_steps"), int),
    "statistics": dict | None,
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
    "shards_digest": str,
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
    **{key: [str] for key in ("joint_names", "exclude_joints", "critical_joints", "tasks")},
    "dataset": _JOINED,
}
SHARDS = PREDICTED | {
    **dict.fromkeys(("chunk_size", "memory_stride", "trace", "resolution"), int),
    "cameras": [str],
    "statistics": {"observation.state": _RANGE, "action": _RANGE | {key: [NUMBER] for key in ("min", "max", "step")}},
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
    """Raise :class:`SigmaError`, which begins with ``source``, where ``value`` is not of this form.

    ``place`` is the key of ``value`` in its file, where it is not the whole file.
    """
    try:
        SchemaValidator(_schema(form)).validate_python(value, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
    else:
        return
    key = ".".join(map(str, [place, *fault["loc"]] if place else fault["loc"]))
    if fault["type"] == "missing":
        raise SigmaError(f"{source}key {key!r} is missing; {advice}")
    expected = EXPECTED.get(fault["type"], fault["msg"].removeprefix("Input should be "))
    actual = type(fault["input"]).__name__ if isinstance(fault["input"], dict | list) else short(fault["input"])
    raise SigmaError(f"{source}{key + ': ' if key else ''}expected {expected}, found {actual}; {advice}")


def _schema(form: Any) -> core_schema.CoreSchema:
    """The form as pydantic's core understands it; a TypedDict could not be built of keys that only a form knows."""
    if isinstance(form, Mapping):
        return core_schema.typed_dict_schema(
            {key: core_schema.typed_dict_field(_schema(inner)) for key, inner in form.items()}
        )
    if isinstance(form, list):
        return core_schema.list_schema(_schema(form[0]))
    return TypeAdapter(form).core_schema
