"""Any legal parameter file comes back as it was written, and any value out of range is refused by its key."""

import copy
import io
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from sigma.parameters import Parameters, read_parameters
from sigma.parameters.schema import read_yaml
from sigma.shared.errors import SigmaError
from tests.parameters.test_parameters import SHIPPED, altered, leaves, shipped

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


def nodes() -> dict[tuple[str, ...], dict[str, Any]]:
    """The JSON schema of each parameter, by its path."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}

    def visit(node: dict[str, Any], schema: dict[str, Any], path: tuple[str, ...]) -> None:
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        if "properties" in node:
            for name, child in node["properties"].items():
                visit(child, schema, (*path, name))
        elif "$ref" in node.get("additionalProperties", {}):
            entry = schema["$defs"][node["additionalProperties"]["$ref"].rsplit("/", 1)[1]]
            found[path] = node | {"additionalProperties": entry}
        elif "$ref" in node.get("items", {}):
            found[path] = node | {"items": schema["$defs"][node["items"]["$ref"].rsplit("/", 1)[1]]}
        else:
            found[path] = node

    for name, field in Parameters.model_fields.items():
        model = field.annotation
        assert issubclass(model, BaseModel)
        schema = model.model_json_schema()
        visit(schema, schema, (name,))
    return found


NODES = nodes()


def bounds(node: dict[str, Any]) -> tuple[Any, Any]:
    """The least and the greatest legal number; None where there is none."""
    exact = node["type"] == "integer"
    low, high = node.get("minimum"), node.get("maximum")
    if "exclusiveMinimum" in node:
        low = node["exclusiveMinimum"] + 1 if exact else math.nextafter(node["exclusiveMinimum"], math.inf)
    if "exclusiveMaximum" in node:
        high = node["exclusiveMaximum"] - 1 if exact else math.nextafter(node["exclusiveMaximum"], -math.inf)
    return low, high


def legal(node: dict[str, Any]) -> st.SearchStrategy:
    """Values that the schema of one parameter allows."""
    if "anyOf" in node:
        return st.one_of([legal(option) for option in node["anyOf"]])
    if "const" in node or "enum" in node:
        return st.sampled_from(node.get("enum") or [node["const"]])
    if "pattern" in node:
        return st.from_regex(node["pattern"].replace("$", r"\Z"), fullmatch=False)
    kind = node["type"]
    if "properties" in node:
        entries = {name: legal(child) for name, child in node["properties"].items()}
        needed = {name: entries.pop(name) for name in node.get("required", [])}
        return st.fixed_dictionaries(needed, optional=entries)
    if kind == "object":
        return st.dictionaries(WORDS, legal(node["additionalProperties"]), max_size=3)
    if kind == "array":
        return st.lists(legal(node["items"]), min_size=node.get("minItems", 0), max_size=4)
    if kind == "string":
        return WORDS.filter(lambda word: len(word) >= node.get("minLength", 0))
    if kind in ("integer", "number"):
        low, high = bounds(node)
        if kind == "integer":
            return st.integers(low, high if high is not None else 10**12)
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    return {"boolean": st.booleans(), "null": st.none()}[kind]


def test_the_schema_knows_every_shipped_parameter():
    assert set(NODES) == set(leaves(SHIPPED))


def written(data: dict[str, Any], folder: Path) -> Path:
    stream = io.StringIO()
    YAML(typ="safe").dump(data, stream)
    file = folder / "params.yaml"
    file.write_text(stream.getvalue(), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("parameters")


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_file_of_any_legal_values_comes_back_as_it_was_written(folder, data):
    values = copy.deepcopy(SHIPPED)
    paths = data.draw(st.lists(st.sampled_from(sorted(NODES)), min_size=1, max_size=8, unique=True))
    for path in paths:
        node = values
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = data.draw(legal(NODES[path]), label=".".join(path))
    read = read_yaml(written(values, folder))
    assert read == values
    try:
        parsed = read_parameters(Path("params.yaml"), read)
    except SigmaError as error:
        # Two legal values may contradict each other: then the line begins with one of their sections.
        assert "\n" not in str(error)
        assert any(str(error).startswith(f"params.yaml: {path[0]}") for path in paths), error
        return
    back = {name: section.model_dump(mode="json") for name, section in parsed}
    assert back == values
    again = read_parameters(Path("params.yaml"), read_yaml(written(back, folder)))
    assert again == parsed


def number(path: tuple[str, ...]) -> dict[str, Any] | None:
    """The part of a parameter's schema that allows numbers; None where there is none, or more than one."""
    options = NODES[path].get("anyOf", [NODES[path]])
    found = [option for option in options if option.get("type") in ("integer", "number")]
    return found[0] if len(found) == 1 else None


BOUNDED = [
    pytest.param(path, side, id=f"{'.'.join(path)}-{('low', 'high')[side]}")
    for path in sorted(NODES)
    if (node := number(path))
    for side in (0, 1)
    if bounds(node)[side] is not None
]


def beyond(path: tuple[str, ...], side: int) -> st.SearchStrategy:
    """Numbers of the parameter's own type on the wrong side of its bound, the nearest included."""
    node = number(path)
    limit = bounds(node)[side]
    if node["type"] == "integer":
        return st.integers(limit + 1, limit + 10**9) if side else st.integers(limit - 10**9, limit - 1)
    near = math.nextafter(limit, math.inf if side else -math.inf)
    far = st.floats(near, None, allow_infinity=False) if side else st.floats(None, near, allow_infinity=False)
    return st.just(near) | far


@pytest.mark.minutes
@pytest.mark.parametrize(("path", "side"), BOUNDED)
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_any_number_out_of_range_is_refused_by_its_key(path, side, data):
    value = data.draw(beyond(path, side))
    with pytest.raises(SigmaError) as caught:
        read_parameters(Path("params.yaml"), altered(path, value))
    line = str(caught.value)
    assert line.startswith(f"params.yaml: {'.'.join(path)}") and "\n" not in line
    assert repr(value) in line and "legal: " in line


@pytest.mark.parametrize("name", ["validation", "test"])
@settings(deadline=None, max_examples=30)
@given(value=st.integers(max_value=-1) | st.floats(max_value=0) | st.floats(min_value=1) | st.booleans() | WORDS)
def test_what_is_neither_a_count_nor_a_fraction_of_episodes_is_refused_by_its_key(name, value):
    with pytest.raises(SigmaError) as caught:
        read_parameters(Path("params.yaml"), altered(("window", name), value))
    found, legal = f"found {value!r}; legal: ", "integer ≥ 0 or number > 0 and < 1"
    assert str(caught.value) == (
        f"params.yaml: window.{name}: must be a count of episodes or a fraction of them, {found}{legal}"
    )


CHOICES = [path for path, node in sorted(NODES.items()) if "enum" in node or "const" in node]


@pytest.mark.parametrize("path", CHOICES, ids=".".join)
@settings(deadline=None, max_examples=10)
@given(word=WORDS)
def test_any_other_word_than_the_choices_is_refused_by_its_key(path, word):
    choices = NODES[path].get("enum") or [NODES[path]["const"]]
    if word in choices:
        return
    with pytest.raises(SigmaError) as caught:
        read_parameters(Path("params.yaml"), altered(path, word))
    assert str(caught.value).startswith(f"params.yaml: {'.'.join(path)}")
    assert all(choice in str(caught.value) for choice in choices)
    assert shipped(path) in choices
