"""The parameter file: what is not legal is named, with the file, the key and what would be."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sigma.parameters import read_parameters
from sigma.parameters.schema import PARAMS_FILE, Section, read_yaml, validate
from sigma.shared.errors import SigmaError
from tests.worlds import ROOT

SHIPPED = read_yaml(ROOT / PARAMS_FILE)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    else:
        yield path


def mappings(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        yield path
        for key, child in value.items():
            yield from mappings(child, (*path, key))


def altered(path: tuple[str, ...], value: Any) -> dict:
    data = copy.deepcopy(SHIPPED)
    node = data
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return data


def refusal(data: dict) -> str:
    """The error that this content gives, without the file's name; it must be one line."""
    with pytest.raises(SigmaError) as caught:
        read_parameters(Path("some.yaml"), data)
    message = str(caught.value)
    assert message.startswith("some.yaml: ") and "\n" not in message
    return message.removeprefix("some.yaml: ")


@pytest.mark.parametrize("path", list(leaves(SHIPPED)), ids=".".join)
def test_a_value_of_the_wrong_type_is_named(path):
    wrong = {"wrong": [1]} if path != ("window", "cameras") else 3
    message = refusal(altered(path, wrong))
    assert message.startswith(".".join(path)), message


def shipped(path: tuple[str, ...]) -> Any:
    value = SHIPPED
    for key in path:
        value = value[key]
    return value


NUMBERS = [path for path in leaves(SHIPPED) if type(shipped(path)) in (int, float)]


@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_a_number_is_never_a_word_a_truth_value_or_infinite(path):
    value = shipped(path)
    for wrong in (str(value), True, math.inf, math.nan):
        assert refusal(altered(path, wrong)).startswith(".".join(path))
    if isinstance(value, int) and path[1] not in ("validation", "test"):
        assert refusal(altered(path, value + 0.5)).startswith(".".join(path))


@pytest.mark.parametrize("path", [path for path in mappings(SHIPPED) if path != ("window", "cameras")], ids=".".join)
def test_an_unknown_key_is_named_at_every_depth(path):
    message = refusal(altered((*path, "colour"), 1))
    assert "colour" in message and "unknown" in message
    known = "sections are" if not path else " has "
    assert known in message


@pytest.mark.parametrize("path", list(leaves(SHIPPED)), ids=".".join)
def test_a_missing_key_is_named(path):
    data = copy.deepcopy(SHIPPED)
    node = data
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    assert refusal(data).startswith(".".join(path))


def test_a_missing_section_and_one_that_is_no_mapping_are_named():
    for name in SHIPPED:
        assert f"section '{name}' is missing" in refusal({k: v for k, v in SHIPPED.items() if k != name})
        assert refusal(SHIPPED | {name: [1]}) == f"{name}: expected a mapping, found list"
        assert refusal(SHIPPED | {name: None}) == f"{name}: expected a mapping, found NoneType"


@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("train.steps", 0, "≥ 1"),
        ("train.learning_rate", 0.0, "> 0"),
        ("train.learning_rate", 1.5, "≤ 1"),
        ("train.average", 1.0, "< 1"),
        ("train.select", "first", "best, last"),
        ("lora.rank", 0, "≥ 1 and ≤ 1024"),
        ("lora.alpha", -1.0, "> 0"),
        ("lora.projections", ["q", "up"], "'q', 'k', 'v' or 'o'"),
        ("lora.projections", [], "at least 1 item"),
        ("lora.projections", ["q", "q"], "distinct"),
        ("telepathy.factor_tokens", -1, "≥ 0 and ≤ 64"),
        ("telepathy.factor_tokens", 65, "≥ 0 and ≤ 64"),
        ("telepathy.width", 4, "≥ 8 and ≤ 8192"),
        ("telepathy.branches", ["chunk", "chunk"], "distinct"),
        ("telepathy.branches", ["gripper"], "'condition', 'vector', 'chunk' or 'trajectory'"),
        ("telepathy.present", "language", "vision, backbone, motion"),
        ("telepathy.factor_source", "luck", "memory, constant"),
        ("telepathy.tau_norm", 0.0, "> 0"),
        ("telepathy.memory", "forgotten", "carried, cleared"),
        ("loss.vec", -0.1, "≥ 0"),
        ("loss.recall", -0.1, "≥ 0"),
        ("loss.traf.top_k", 1.0, "< 1"),
        ("loss.traf.focus", 0.0, "> 0"),
        ("loss.traf.top_k", 0.5, "focus (0.4) below top_k (0.5) would weight hard windows down"),
        ("train.lora_learning_rate", -0.1, "≥ 0"),
        ("loss.trj", 0.0, "vec, chk and trj are all 0, so that nothing is learned; legal: at least one above 0"),
        ("train.validation_draws", 0, "≥ 1 and ≤ 1024"),
        ("window.memory_stride", 0, "≥ 1 and ≤ 1024"),
        ("loss.tsac.temperature", 0.0, "> 0"),
        ("loss.tsac.bank", [], "at least 1 item"),
        ("base.instructions", ["reach", " "], "base.instructions.1: "),
        ("loss.tsac.end", 0.1, "must not lie before start"),
        ("base.samples", 0, "≥ 1 and ≤ 256"),
        ("base.action", "median", "zero_noise, mean, sample"),
        ("machine.device", "tpu", "auto, cpu, cuda"),
        ("machine.batch", 0, "≥ 1"),
        ("machine.backend", "slurm", "local, dask, ray"),
        ("machine.address", "tcp://10.0.0.5:8786", "with machine.backend local: null"),
        ("machine.processes", 0, "≥ 1 and ≤ 1024"),
    ],
)
def test_a_value_out_of_range_is_told_what_is_legal(key, value, legal):
    message = refusal(altered(tuple(key.split(".")), value))
    assert message.startswith(key.rpartition(".")[0]) and legal in message, message


def test_a_rule_over_two_keys_does_not_print_the_whole_section():
    message = refusal(altered(("loss", "tsac", "end"), 0.1))
    assert len(message) < 120 and "{" not in message


BAD_FILES = {
    "empty": ("", "expected a mapping of sections, found NoneType"),
    "only a comment": ("# nothing\n", "expected a mapping of sections, found NoneType"),
    "a list": ("- a\n", "expected a mapping of sections, found list"),
    "unbalanced": ("a: [1\n", "not valid YAML"),
    "tabs": ("a:\n\tb: 1\n", "not valid YAML"),
    "duplicate key": ("a: 1\na: 2\n", "duplicate key"),
    "deep duplicate": ("a:\n  b: 1\n  b: 2\n", "duplicate key"),
    "two documents": ("a: 1\n---\na: 2\n", "not valid YAML"),
    "anchor": ("a: &x 1\nb: *x\n", "line 1: anchors and aliases are not used here"),
    "anchor in a list": ("a:\n  - &x 1\n  - *x\n", "line 2: anchors and aliases"),
    "merge": ("a: &x {b: 1}\nc:\n  <<: *x\n", "anchors and aliases"),
    "python object": ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    "too deep": ("a: " + "[" * 50 + "]" * 50 + "\n", "not valid YAML"),
    "control character": ("a: \x00\n", "not valid YAML"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_plain_mapping_is_refused_in_one_line(tmp_path, name):
    text, reason = BAD_FILES[name]
    file = tmp_path / PARAMS_FILE
    file.write_text(text)
    with pytest.raises(SigmaError) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(f"{file}: ") and reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SigmaError, match=r"params\.yaml: not found; run the command from the project's root"):
        read_yaml(tmp_path / PARAMS_FILE)
    (tmp_path / PARAMS_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SigmaError, match="not readable"):
        read_yaml(tmp_path / PARAMS_FILE)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SigmaError, match="not readable"):
        read_yaml(tmp_path / "folder")


def test_signs_that_look_like_anchors_are_not_taken_for_them(tmp_path):
    file = tmp_path / PARAMS_FILE
    file.write_text("a: R&D * 2  # &x and *y\nb: 'x: *y & z'\n")
    assert read_yaml(file) == {"a": "R&D * 2", "b": "x: *y & z"}


def test_keys_that_are_no_words_are_refused():
    assert "unknown section 1" in refusal(SHIPPED | {1: {}, "zebra": {}})
    assert refusal(SHIPPED | {"lora": SHIPPED["lora"] | {1: 2}}).startswith("lora")


def test_sections_are_frozen_and_the_shipped_values_come_through():
    parameters = read_parameters(ROOT / PARAMS_FILE)
    for name, section in parameters:
        assert section.model_dump(mode="json").keys() == SHIPPED[name].keys()
    assert parameters.loss.traf.top_k == SHIPPED["loss"]["traf"]["top_k"]
    with pytest.raises(Exception, match="frozen"):
        parameters.lora.rank = 3


def test_every_shipped_value_has_a_comment():
    lines = (ROOT / PARAMS_FILE).read_text().splitlines()
    for number, line in enumerate(lines):
        text = line.strip()
        if not line.startswith(" ") or text.startswith(("#", "-")) or ":" not in text:
            continue
        opens = text.endswith(":") and lines[number + 1].strip().startswith("#")
        nested = text.endswith(":") and len(lines[number + 1]) - len(lines[number + 1].lstrip()) > 2
        assert "#" in line or lines[number - 1].strip().startswith("#") or opens or nested, f"line {number + 1}: {line}"


def test_only_known_sections_are_asked_for():
    assert validate(Section, {}, Path("x.yaml")) == Section()
