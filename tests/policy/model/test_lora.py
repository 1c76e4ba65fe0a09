"""LoRA sits where it should, changes nothing at the start, and comes off without a trace."""

import copy
import json
import pickle
import re

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from sigma.policy.model import lora
from sigma.policy.model.model_folder import base_digest
from sigma.shared.errors import SigmaError
from tests.bases import load_tiny_base
from tests.policy.model.test_heads import Payload

DEPTH = 2
LANGUAGE = "model.paligemma_with_expert.paligemma.model.language_model.layers.{layer}.self_attn.{name}_proj"
EXPERT = "model.paligemma_with_expert.gemma_expert.model.layers.{layer}.self_attn.{name}_proj"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Gives the same policy anew, without LoRA."""
    base = load_tiny_base(tmp_path_factory.mktemp("lora") / "base")
    return lambda: copy.deepcopy(base.policy)


@pytest.fixture
def policy(fresh):
    return fresh()


def attach(policy, **options):
    return lora.attach(policy, **{"rank": 2, "alpha": 4.0, "dropout": 0.0, "seed": 0} | options)


def adapted_names(model) -> set[str]:
    return {name.removeprefix("base_model.model.") for name in lora.lora_layers(model)}


def names(towers, projections="qkvo") -> set[str]:
    return {tower.format(layer=layer, name=name) for tower in towers for layer in range(DEPTH) for name in projections}


def randomise(model) -> None:
    torch.manual_seed(0)
    for parameter in lora.lora_parameters(model):
        torch.nn.init.normal_(parameter)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, names([LANGUAGE, EXPERT])),
        ({"towers": ("language",), "projections": ["q", "v"]}, names([LANGUAGE], "qv")),
        ({"towers": ("expert",), "projections": ["o"]}, names([EXPERT], "o")),
    ],
)
def test_exactly_the_wanted_projections_are_adapted(policy, options, expected):
    vision = [name for name, _ in policy.named_modules() if "vision_tower" in name and name.endswith("q_proj")]
    assert vision, "the image tower has projections of the same name, which must stay as they are"
    model = attach(policy, **options)
    assert adapted_names(model) == expected
    assert len(lora.lora_parameters(model)) == 2 * len(expected)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(re.search(r"\.lora_[AB]\.", name) for name in trainable) and len(trainable) == 2 * len(expected)


def test_a_fresh_adapter_adds_exactly_nothing(policy):
    layer = policy.get_submodule(LANGUAGE.format(layer=0, name="q"))
    inputs = torch.randn(3, layer.in_features)
    before, digest = layer(inputs), base_digest(policy)
    adapted = attach(policy).get_submodule("base_model.model." + LANGUAGE.format(layer=0, name="q"))
    assert isinstance(adapted, LoraLayer)
    assert torch.equal(adapted(inputs), before)
    assert base_digest(policy) == digest
    torch.nn.init.normal_(adapted.lora_B["default"].weight)
    assert not torch.allclose(adapted(inputs), before)
    assert base_digest(policy) == digest


def test_attaching_is_seeded_and_leaves_the_callers_random_state_alone(fresh):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    models = [attach(fresh(), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    first, same, other = ([tensor.clone() for tensor in lora.lora_parameters(model)] for model in models)
    assert all(map(torch.equal, first, same))
    assert not all(map(torch.equal, first, other))


def test_switching_off_reaches_the_named_modules_alone_and_ends_with_the_block(policy):
    model = attach(policy, towers=("language",))
    randomise(model)
    layers = lora.lora_layers(model)
    inputs = torch.randn(2, 24)
    on = {name: layer(inputs) for name, layer in layers.items() if not name.endswith("o_proj")}
    off = {name: layers[name].base_layer(inputs) for name in on}
    chosen = next(iter(on))
    with lora.disabled(model, only=[chosen]):
        for name, value in on.items():
            assert torch.equal(layers[name](inputs), off[name] if name == chosen else value)
        with lora.disabled(model):
            assert all(torch.equal(layers[name](inputs), off[name]) for name in on)
        assert torch.equal(layers[chosen](inputs), off[chosen])
    with pytest.raises(RuntimeError), lora.disabled(model):
        raise RuntimeError
    assert all(torch.equal(layers[name](inputs), value) for name, value in on.items())


@pytest.fixture
def saved(policy, tmp_path):
    """A folder with a random adapter, and the parameters that it holds."""
    model = attach(policy)
    randomise(model)
    folder = tmp_path / "adapter"
    folder.mkdir()
    lora.save(model, folder)
    return folder, [parameter.clone() for parameter in lora.lora_parameters(model)]


def to_bin(folder, change=None):
    """Rewrite the folder in the source's layout."""
    tensors = dict(load_file(folder / lora.WEIGHTS))
    torch.save(change or tensors, folder / lora.SOURCE_WEIGHTS)
    (folder / lora.WEIGHTS).unlink()


@pytest.mark.parametrize("form", [lora.WEIGHTS, lora.SOURCE_WEIGHTS])
def test_a_saved_adapter_comes_back_to_the_bit(saved, fresh, form):
    folder, expected = saved
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", lora.WEIGHTS]
    if form == lora.SOURCE_WEIGHTS:
        to_bin(folder)
    model = lora.load(fresh(), folder)
    assert all(map(torch.equal, lora.lora_parameters(model), expected))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def tensor_name(folder) -> str:
    return sorted(load_file(folder / lora.WEIGHTS))[0]


def break_missing(tensors, name):
    del tensors[name]


def break_extra(tensors, name):
    tensors[name + ".more"] = torch.zeros(1)


def break_shape(tensors, name):
    tensors[name] = torch.zeros(3, 3)


def break_nan(tensors, name):
    tensors[name][0, 0] = float("inf")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_missing, "is missing; the file was made for another base or rank"),
        (break_extra, "more is unknown"),
        (break_shape, r"has shape \(3, 3\), expected \(2, 16\)"),
        (break_nan, "holds a non-finite number"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_and_the_policy_stays_clean(saved, fresh, fault, message):
    folder, expected = saved
    name, tensors = tensor_name(folder), dict(load_file(folder / lora.WEIGHTS))
    fault(tensors, name)
    save_file(tensors, folder / lora.WEIGHTS)
    policy = fresh()
    digest = base_digest(policy)
    with pytest.raises(SigmaError, match=message) as caught:
        lora.load(policy, folder)
    assert name in str(caught.value)
    assert not lora.lora_layers(policy)
    assert base_digest(policy) == digest
    lora.save(attach(policy), folder)
    assert len(expected) == len(lora.lora_parameters(policy))


def test_an_adapter_of_other_sizes_is_refused(saved, tmp_path):
    folder, _ = saved
    policy = load_tiny_base(tmp_path / "deep", depth=3).policy
    with pytest.raises(SigmaError, match="made for another base"):
        lora.load(policy, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type: found 'IA3'; legal: 'LORA'"),
        ({"r": "many"}, "adapter"),
        ({"target_modules": "nothing_like_this"}, "target_modules: found 'nothing_like_this'; legal: such as"),
        ({"rank_pattern": {".*": 3}}, "rank_pattern: found .*; legal: {}"),
        ({"wings": 2}, "wings: found 2; legal: no such key"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_clear_line(saved, fresh, change, message):
    folder, _ = saved
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SigmaError, match=message) as caught:
        lora.load(fresh(), folder)
    assert "\n" not in str(caught.value)


def test_a_broken_configuration_and_missing_files_are_named(saved, fresh):
    folder, _ = saved
    policy = fresh()
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(SigmaError, match=r"adapter_config\.json: not readable"):
        lora.load(policy, folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(SigmaError, match=r"adapter_config\.json: not found"):
        lora.load(policy, folder)


def test_a_payload_in_the_sources_form_is_refused_and_never_runs(saved, fresh, tmp_path):
    folder, _ = saved
    target = tmp_path / "ran"
    to_bin(folder, {"a": Payload(target)})
    policy = fresh()
    with pytest.raises(SigmaError, match="not a plain file of tensors"):
        lora.load(policy, folder)
    (folder / lora.SOURCE_WEIGHTS).write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(SigmaError, match="not a plain file of tensors"):
        lora.load(policy, folder)
    assert not target.exists()


def test_a_second_adapter_on_one_policy_is_refused(saved, policy):
    with pytest.raises(SigmaError, match="carries LoRA already"):
        attach(policy)
    with pytest.raises(SigmaError, match="carries LoRA already"):
        lora.load(policy, saved[0])
