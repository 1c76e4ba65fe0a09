"""The parameter file: its model base, its loader and its error messages.

Each command's module declares one frozen model for each section of ``params.yaml`` that it owns. This module knows
none of them: :mod:`sigma.cli.app` collects them and validates the whole file before any command starts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sigma.shared.errors import SigmaError

PARAMS_FILE = Path("params.yaml")
DEEPEST = 20  # levels of nesting in a file; reading time grows with the square of what is meant to stall it


class Section(BaseModel):
    """A frozen section of ``params.yaml``: unknown keys are refused, types are strict, ranges are checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; duplicate keys, several documents and other top-level types are refused."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = False
    depth = 0
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SigmaError(f"{path}: not found; run the command from the project's root") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SigmaError(f"{path}: not readable ({error})") from None
    try:
        for event in yaml.parse(text):
            line = event.start_mark.line + 1
            if getattr(event, "anchor", None) is not None:
                raise SigmaError(f"{path}: line {line}: anchors and aliases are not used here; write the values out")
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > DEEPEST:
                raise SigmaError(f"{path}: not valid YAML: line {line}: nested deeper than {DEEPEST} levels")
        data = yaml.load(text)
    except (YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:  # of values that are none
        detail = " ".join(str(error).split())
        raise SigmaError(f"{path}: not valid YAML: {detail}") from None
    if not isinstance(data, dict):
        raise SigmaError(f"{path}: expected a mapping of sections, found {type(data).__name__}")
    return data


def _legal(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    """What the field at ``location`` accepts, in words: its range, or its choices."""
    field, owner = None, model
    for part in location:
        if not (isinstance(owner, type) and issubclass(owner, BaseModel)) or part not in owner.model_fields:
            break
        field = owner.model_fields[part]
        owner = field.annotation
    if field is None:
        return ""
    schema = model.model_json_schema()
    node: Any = schema
    for part in location:
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        node = node.get("properties", {}).get(part) or node.get("additionalProperties")
        if not node:
            return ""
    options = node.get("anyOf", [node])
    words = []
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for option in options:
        if "enum" in option:
            words.append("one of " + ", ".join(map(str, option["enum"])))
            continue
        if "const" in option:
            words.append(str(option["const"]))
            continue
        bounds = " and ".join(f"{sign} {option[key]}" for key, sign in names.items() if key in option)
        words.append(" ".join(filter(None, [option.get("type", ""), bounds, option.get("pattern", "")])))
    return " or ".join(filter(None, words))


def validate[Model: Section](model: type[Model], data: Mapping[str, Any], source: Path) -> Model:
    """Check ``data`` against ``model``, whose fields are the sections of a file.

    Raises:
        SigmaError: names the file, the key and the legal range.
    """
    sections = {name: field.annotation for name, field in model.model_fields.items()}
    unknown = sorted(set(data) - set(sections), key=str)
    if unknown:
        raise SigmaError(f"{source}: unknown section {unknown[0]!r}; the sections are {', '.join(sorted(sections))}")
    parsed: dict[str, Section] = {}
    for name, section in sections.items():
        if name not in data:
            raise SigmaError(f"{source}: section {name!r} is missing")
        if not isinstance(data[name], dict):
            raise SigmaError(f"{source}: {name}: expected a mapping, found {type(data[name]).__name__}")
        try:
            parsed[name] = section.model_validate(data[name])
        except ValidationError as error:
            raise SigmaError(f"{source}: {_first_fault(name, section, error)}") from None
    return model(**parsed)


def _first_fault(name: str, section: type[Section], error: ValidationError) -> str:
    """The first fault of a section in words: key, what was found, and what is legal."""
    first = error.errors(include_url=False)[0]
    key = ".".join([name, *map(str, first["loc"])])
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; {name} has {', '.join(sorted(section.model_fields))}"
    legal = _legal(section, first["loc"])
    whole = first["type"] == "missing" or isinstance(first["input"], dict)
    found = "" if whole else f", found {first['input']!r}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}{found}" + (f"; legal: {legal}" if legal else "")


def read_sections[Model: Section](model: type[Model], path: Path, *, others: bool = False) -> Model:
    """The sections of a parameter file that are the fields of ``model``; ``others`` allows and ignores further ones.

    Raises:
        SigmaError: names the file, the key and the legal range.
    """
    data = read_yaml(path)
    if others:
        data = {name: value for name, value in data.items() if name in model.model_fields}
    return validate(model, data, path)
