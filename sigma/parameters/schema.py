"""Parameter files: the base class of their sections, the YAML reader, and the validation with its error messages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sigma.shared.errors import SigmaError

PARAMS_FILE = Path("params.yaml")
# Levels of nesting in a file: the parser's time grows with their square, so a hostile file could stall it.
DEEPEST = 20


# A text that says something.
Words = Annotated[str, Field(pattern=r"\w")]


class Section(BaseModel):
    """A frozen section of ``params.yaml``: unknown keys are refused, types are strict, ranges are checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file with one YAML mapping; raises :class:`SigmaError` as :func:`parse_yaml` does."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise SigmaError(f"{path}: not found; run the command from the project's root") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SigmaError(f"{path}: not readable ({error})") from None


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """Parse one YAML mapping; duplicate keys, several documents and other top-level types are refused.

    An error names the text ``path``.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = False
    depth = 0
    try:
        for event in yaml.parse(text):
            line = event.start_mark.line + 1
            if getattr(event, "anchor", None) is not None:
                raise SigmaError(f"{path}: line {line}: anchors and aliases are not used here; write the values out")
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > DEEPEST:
                raise SigmaError(f"{path}: not valid YAML: line {line}: nested deeper than {DEEPEST} levels")
        data = yaml.load(text)
    except (YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:  # ruamel raises all of them
        detail = " ".join(str(error).split())
        raise SigmaError(f"{path}: not valid YAML: {detail}") from None
    if not isinstance(data, dict):
        raise SigmaError(f"{path}: expected a mapping of sections, found {type(data).__name__}")
    return data


def _field_schema(model: type[BaseModel], location: tuple[Any, ...]) -> dict[str, Any]:
    """JSON schema of the field at ``location``; empty where the model has none."""
    schema = model.model_json_schema()
    field: dict[str, Any] = schema
    for part in location:
        entries: list[Any] = [field.get("properties", {}).get(part), field.get("additionalProperties")]
        field = next(filter(None, [*entries, *field.get("patternProperties", {}).values()]), {})
        if "$ref" in field:
            field = schema["$defs"][field["$ref"].rsplit("/", 1)[1]]
    return field


def _legal(field: dict[str, Any]) -> str:
    """What a field accepts, in words: its range or its choices; empty for a mapping."""
    words = []
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for option in field.get("anyOf", [field]):
        if "enum" in option:
            words.append("one of " + ", ".join(map(str, option["enum"])))
        elif "const" in option:
            words.append(str(option["const"]))
        elif "properties" not in option:
            bounds = " and ".join(f"{sign} {option[key]}" for key, sign in names.items() if key in option)
            words.append(" ".join(filter(None, [option.get("type", ""), bounds, option.get("pattern", "")])))
    return " or ".join(filter(None, words))


def validate[Model: Section](model: type[Model], data: Mapping[str, Any], source: Path) -> Model:
    """Check ``data`` against ``model``, whose fields are the sections of a file.

    Raises:
        SigmaError: names the file, the key and the legal range.
    """
    unknown = sorted(set(data) - set(model.model_fields), key=str)
    if unknown:
        sections = ", ".join(sorted(model.model_fields))
        raise SigmaError(f"{source}: unknown section {unknown[0]!r}; the sections are {sections}")
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise SigmaError(f"{source}: {_first_fault(model, error)}") from None


def _first_fault(model: type[Section], error: ValidationError) -> str:
    """The first fault of a file in words: its key, what was found, and what is legal."""
    fault = error.errors(include_url=False)[0]
    location, value = fault["loc"], fault["input"]
    key = ".".join(map(str, location))
    if fault["type"] == "missing" and len(location) == 1:
        return f"section {key!r} is missing"
    if fault["type"] == "model_type":
        return f"{key}: expected a mapping, found {type(value).__name__}"
    if fault["type"] == "extra_forbidden":
        section = ".".join(map(str, location[:-1]))
        keys = sorted(_field_schema(model, location[:-1])["properties"])
        return f"{key}: unknown key; {section} has {', '.join(keys)}"
    message = fault["msg"].removeprefix("Value error, ")
    if not location:  # sections that do not fit each other
        return message
    legal = "" if "; legal: " in message else _legal(_field_schema(model, location))
    found = "" if fault["type"] == "missing" or isinstance(value, dict) else f", found {value!r}"
    return f"{key}: {message[0].lower()}{message[1:]}{found}" + (f"; legal: {legal}" if legal else "")


def read_sections[Model: Section](model: type[Model], path: Path, *, others: bool = False) -> Model:
    """The sections of a parameter file that are the fields of ``model``; with ``others``, further ones are ignored.

    Raises:
        SigmaError: names the file, the key and the legal range.
    """
    data = read_yaml(path)
    if others:
        data = {name: value for name, value in data.items() if name in model.model_fields}
    return validate(model, data, path)
