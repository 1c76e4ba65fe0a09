"""A model folder describes itself and fits one base."""

import json

import pytest
import torch

from sigma.policy.model.model_folder import base_digest, load_model, load_prompter, read_config
from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.model.tensors import read_tensors
from sigma.shared.errors import SigmaError
from tests.bases import load_tiny_base
from tests.worlds import World, tiny_sizes

HEADS = "sigma_telepathy_heads.safetensors"


@pytest.fixture
def model_world(trained, tmp_path) -> World:
    return trained.copy(tmp_path / "world")


def edit(folder, **changes):
    file = folder / "config.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_the_folder_holds_what_the_source_names_and_what_a_run_needs(trained):
    folder = trained.root / "models/sigma"
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "sigma_telepathy_heads.pt",
        HEADS,
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]
    first, second = read_tensors(folder / HEADS), read_tensors(folder / "sigma_telepathy_heads.pt")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    config = read_config(folder)
    assert config["weights_digest"] == base_digest(trained.base().policy)
    assert (
        config["normalisation"] == json.loads((trained.root / "data/features/meta.json").read_text())["normalisation"]
    )
    prompts = [
        prompter(["push the cube"], torch.zeros(1, 6).numpy()).tokens
        for prompter in (load_prompter(folder, config), trained.base().prompter)
    ]
    assert torch.equal(*prompts)


def test_another_base_is_refused_before_anything_is_attached(model_world, tmp_path):
    from sigma.policy.model import lora

    folder = model_world.root / "models/sigma"
    policy = load_tiny_base(tmp_path / "other", seed=1).policy
    with pytest.raises(SigmaError, match=r"config\.json: the base policy's weights are not those"):
        load_model(policy, folder, read_config(folder), folder / HEADS)
    assert not lora.lora_layers(policy)


def test_one_altered_number_of_the_base_is_noticed(model_world):
    folder = model_world.root / "models/sigma"
    policy = model_world.base().policy
    with torch.no_grad():
        policy.model.action_out_proj.bias[0] += 1e-3
    with pytest.raises(SigmaError, match="weights are not those"):
        load_model(policy, folder, read_config(folder), folder / HEADS)


def test_a_base_of_another_precision_is_refused_by_name(model_world):
    from sigma.policy.pi05.base import load_base
    from sigma.shared.files import read_json

    folder = model_world.root / "models/sigma"
    policy = load_base(read_json(model_world.root / "data/base.json"), dtype="bfloat16").policy
    with pytest.raises(SigmaError, match="float32, found bfloat16"):
        load_model(policy, folder, read_config(folder), folder / HEADS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, r"format_version: found 99; legal: 3"),
        ({"format_version": 2}, r"format_version: found 2; legal: 3"),  # a model of the first version
        ({"format_version": None}, r"format_version: found None"),
        ({"num_steps": None}, r"key 'num_steps' is missing"),
    ],
)
def test_a_configuration_of_another_version_or_without_a_key_is_refused(model_world, changes, message):
    folder = model_world.root / "models/sigma"
    edit(folder, **changes)
    with pytest.raises(SigmaError, match=message):
        read_config(folder)


def test_a_configuration_that_is_no_mapping_or_no_json_is_refused(model_world):
    file = model_world.root / "models/sigma/config.json"
    for text, message in (("[]", "format_version"), ("{", "not readable as JSON")):
        file.write_text(text)
        with pytest.raises(SigmaError, match=message):
            read_config(file.parent)


def test_a_tokenizer_that_is_gone_is_named(model_world):
    folder = model_world.root / "models/sigma"
    (folder / "tokenizer/tokenizer.json").unlink()
    (folder / "tokenizer/tokenizer_config.json").unlink()
    with pytest.raises(SigmaError, match="tokenizer: not readable as a tokenizer"):
        load_prompter(folder, read_config(folder))


def test_sizes_survive_json_and_a_wrong_key_is_named():
    sizes = tiny_sizes()
    assert TelepathySizes.from_dict(json.loads(json.dumps(sizes.to_dict())), "config.json") == sizes
    values = sizes.to_dict()
    with pytest.raises(SigmaError, match=r"config\.json: heads: key 'inner'"):
        TelepathySizes.from_dict({key: value for key, value in values.items() if key != "inner"}, "config.json")
    with pytest.raises(SigmaError, match=r"key 'colour'"):
        TelepathySizes.from_dict(values | {"colour": 1}, "config.json")
