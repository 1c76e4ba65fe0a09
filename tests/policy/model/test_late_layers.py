"""Shared early layers: adapters and FiLM begin at a layer, and what lies before it is the frozen base's own pass."""

import pytest
import torch

from sigma.parameters import read_parameters
from sigma.policy.model import lora
from sigma.policy.model.model_folder import load_model, read_config
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.base_action import zero_noise_action
from sigma.policy.pi05.observation import base_pass
from sigma.shared.errors import SigmaError
from sigma.shared.spans import SPANS
from tests.policy.model.test_decision import fresh_model, trained_model

LATE = {"telepathy": {"from_layer": 1, "layers": [-1], "factor_tokens": 0, "state_tokens": 0}}
ADAPTED = {"base": {"branch": "adapted"}, "train": {"flow_steps": 2}}


@pytest.fixture(params=["frozen", "adapted"])
def branch(request) -> dict:
    return ADAPTED if request.param == "adapted" else {}


def same_pass(one, other) -> bool:
    keys = all(
        torch.equal(a, b)
        for left, right in zip(one.encoded.cache, other.encoded.cache, strict=True)
        for a, b in zip(left[:2], right[:2], strict=True)
    )
    return keys and torch.equal(one.pooled, other.pooled) and torch.equal(one.encoded.last, other.encoded.last)


@torch.no_grad()
def test_before_training_a_late_pass_is_the_base_to_the_bit(prepared, branch):
    model, trainer, rows = fresh_model(prepared, branch, LATE)
    untouched = prepared.base().policy
    observation = trainer.material.observation(rows)
    expected = base_pass(untouched, observation, hidden_states=True)
    passed = model.adapted_pass(observation)
    assert same_pass(passed, expected)
    assert passed.encoded.layers[0] is None and torch.equal(passed.encoded.layers[1], expected.encoded.layers[1])
    action = zero_noise_action(model.policy, passed.encoded, 5)
    assert torch.equal(action, zero_noise_action(untouched, expected.encoded, 5))


@torch.no_grad()
def test_a_given_frozen_pass_and_an_own_one_are_the_same_to_the_bit(prepared, branch):
    model, trainer, rows = fresh_model(prepared, branch, LATE)
    torch.manual_seed(0)
    for parameter in (*lora.lora_parameters(model.adapted), model.heads.film.modulation.weight):
        torch.nn.init.normal_(parameter, std=0.3)
    observation = trainer.material.observation(rows)
    own, frozen = model.adapted_pass(observation), model.frozen_pass(observation)
    assert same_pass(own, model.adapted_pass(observation, frozen=frozen))
    assert not same_pass(own, frozen) and not same_pass(own, model.adapted_pass(observation, film=False))
    early, whole = next(iter(own.encoded.cache)), next(iter(frozen.encoded.cache))
    assert torch.equal(early[0], whole[0]) and torch.equal(early[1], whole[1]), "the early layer's keys are shared"


def test_lora_begins_at_the_layer_in_the_language_model_alone(prepared):
    model, _, _ = fresh_model(prepared, ADAPTED, LATE)
    names = lora.lora_layers(model.adapted)
    language = {name for name in names if "language_model" in name}
    expert = {name for name in names if "gemma_expert" in name}
    assert len(language) == 4 and all(".layers.1." in name for name in language)
    assert len(expert) == 8 and language | expert == set(names)


def test_gradients_are_those_of_the_whole_pass(prepared):
    """The same loss by one pass over all layers, written out here, gives LoRA the same gradients."""
    model, trainer, rows = fresh_model(prepared, LATE)
    torch.manual_seed(0)
    parameters = lora.lora_parameters(model.adapted)
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.3)
    observation = trainer.material.observation(rows)
    model.adapted_pass(observation, cache=False).encoded.last.square().sum().backward()
    found = [parameter.grad.clone() for parameter in parameters]
    model.zero_grad()
    text = prefix.text_embeddings(model.policy, observation.tokens)
    whole = prefix.assemble(observation.vision, text, observation.mask)
    prefix.encode(model.policy, whole, cache=False).last.square().sum().backward()
    for one, other in zip(found, parameters, strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-5, atol=1e-6)
        assert one.any()


def test_a_trained_late_model_is_saved_and_comes_back(prepared, tmp_path, branch):
    world = prepared.copy(tmp_path / "world")
    world.run("finetune", changes={**branch, "telepathy": LATE["telepathy"]})
    config = read_config(world.root / "models/sigma")
    assert config["sizes"]["from_layer"] == 1
    model, material, rows = trained_model(world)
    with torch.no_grad():
        observation, base = material.observation(rows), material.base_action(rows)
        shared = model(observation, base, passed=model.adapted_pass(observation, frozen=model.frozen_pass(observation)))
        alone = model(observation, base)
        for span in SPANS:
            assert torch.equal(shared.residuals[span], alone.residuals[span])
        other = load_model(
            world.base().policy,
            world.root / "models/sigma",
            config,
            world.root / "models/sigma/sigma_telepathy_heads.safetensors",
        )
        assert torch.equal(other(observation, base).residuals["trajectory"], alone.residuals["trajectory"])


def test_without_shared_layers_the_saved_sizes_do_not_name_them(prepared):
    model, _, _ = fresh_model(prepared)
    assert "from_layer" not in model.heads.sizes.to_dict()


def test_what_does_not_fit_is_refused(prepared):
    with pytest.raises(SigmaError, match=r"telepathy.*from_layer above 0 needs factor_tokens 0 and state_tokens 0"):
        read_parameters(prepared.root, prepared.values({"telepathy": {"from_layer": 1}}))
    late = {"telepathy": {"from_layer": 2, "layers": [-1], "factor_tokens": 0, "state_tokens": 0}}
    with pytest.raises(
        SigmaError, match=r"telepathy\.from_layer: found 2; legal: 0 to 1, the first layer that the heads"
    ):
        prepared.trainer(late)
