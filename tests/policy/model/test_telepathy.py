"""The telepathy path: an identity at the start, a memory that reads the past and only the past."""

import numpy as np
import pytest
import torch

from sigma.policy.model.telepathy import (
    Anticipation,
    FactorTokens,
    FiLM,
    MotionEncoder,
    StateEncoder,
    TelepathyPath,
    normalise_factors,
)
from tests.worlds import tiny_sizes

BATCH = 5


def path_and_inputs(seed: int = 0, **changes):
    """A path with random weights, and what five decisions give it to anticipate from."""
    torch.manual_seed(seed)
    sizes = tiny_sizes(**changes)
    path = TelepathyPath(sizes).eval()
    if path.motion_encoder is not None:
        path.motion_encoder.rms.copy_(torch.linspace(0.5, 1.5, sizes.state_dim))
    return path, {
        "history": torch.randn(BATCH, sizes.history - 1, sizes.pools, sizes.width),
        "present": torch.ones(BATCH, sizes.history - 1, dtype=torch.bool),
        "now": torch.randn(BATCH, sizes.pools, sizes.width),
        "motion": torch.randn(BATCH, sizes.trace, sizes.state_dim),
        "text": torch.randn(BATCH, sizes.width),
    }


def assert_same(one: Anticipation, other: Anticipation) -> None:
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name)), name


def test_film_is_the_identity_to_the_bit_at_the_start():
    torch.manual_seed(0)
    film, vision, factors = FiLM(3, 4, 24), torch.randn(BATCH, 2, 4, 24), torch.randn(BATCH, 3, 4)
    assert torch.equal(film(vision, factors), vision)
    torch.nn.init.normal_(film.modulation.weight)
    assert not torch.allclose(film(vision, factors), vision)


def test_what_is_told_of_the_factors_is_their_direction():
    torch.manual_seed(0)
    factors = torch.randn(BATCH, 3, 4) * 5 + 2
    told = normalise_factors(factors).flatten(1)
    numbers = factors.flatten(1).double().numpy()
    expected = (numbers - numbers.mean(1, keepdims=True)) / numbers.std(1, keepdims=True)
    np.testing.assert_allclose(told.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_film_computes_its_equation():
    torch.manual_seed(0)
    film, vision, factors = FiLM(3, 4, 24), torch.randn(BATCH, 2, 4, 24), torch.randn(BATCH, 3, 4)
    torch.nn.init.normal_(film.modulation.weight)
    torch.nn.init.normal_(film.log_gain)
    gain, weight = np.exp(film.log_gain.detach().numpy()), film.modulation.weight.detach().numpy()
    expected = np.empty(vision.shape)
    for row in range(BATCH):
        numbers = factors[row].numpy()
        told = (numbers - numbers.mean()) / np.sqrt(numbers.var() + 1e-5)
        modulation = weight @ (gain * told).reshape(-1)
        gamma, beta = modulation[:24], modulation[24:]
        expected[row] = (1 + gamma) * vision[row].numpy() + beta
    np.testing.assert_allclose(film(vision, factors).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_state_tokens_have_the_size_of_text_embeddings_and_follow_the_state():
    torch.manual_seed(0)
    encoder = StateEncoder(tiny_sizes(state_tokens=3), token_rms=1.7)
    states = torch.randn(BATCH, 6)
    tokens = encoder(states)
    assert tokens.shape == (BATCH, 3, 24)
    torch.testing.assert_close(tokens.square().mean(-1).sqrt(), torch.full((BATCH, 3), 1.7), rtol=1e-3, atol=0)
    assert not torch.allclose(tokens[0], encoder(states + 0.5)[0])


def test_factor_tokens_have_the_size_of_text_embeddings_and_tell_the_direction_of_the_factors():
    torch.manual_seed(0)
    told = FactorTokens(tiny_sizes(factor_tokens=5), token_rms=1.7)
    factors = torch.randn(BATCH, 3, 4)
    tokens = told(factors)
    assert tokens.shape == (BATCH, 5, 24)
    torch.testing.assert_close(tokens.square().mean(-1).sqrt(), torch.full((BATCH, 5), 1.7), rtol=1e-3, atol=0)
    assert not torch.allclose(tokens[0, 0], tokens[0, 1]), "each token says something of its own"
    torch.testing.assert_close(told(3.0 * factors + 1.0), tokens, rtol=0, atol=1e-3)
    for number in range(12):
        altered = factors.flatten(1).clone()
        altered[:, number] += 1.0
        assert not torch.allclose(told(altered.view_as(factors)), tokens, atol=1e-2), number


def test_factor_tokens_compute_their_equation():
    torch.manual_seed(0)
    told, factors = FactorTokens(tiny_sizes(factor_tokens=2), token_rms=0.4), torch.randn(BATCH, 3, 4) * 3 + 1
    weight, bias = (one.detach().double().numpy() for one in (told.project.weight, told.project.bias))
    expected = np.empty((BATCH, 2, 24))
    for row in range(BATCH):
        numbers = factors[row].double().numpy().reshape(-1)
        for token, values in enumerate((weight @ ((numbers - numbers.mean()) / numbers.std()) + bias).reshape(2, 24)):
            expected[row, token] = 0.4 * (values - values.mean()) / values.std()
    np.testing.assert_allclose(told(factors).detach().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_gradient_flows_from_the_factor_tokens_to_every_factor():
    torch.manual_seed(0)
    told, factors = FactorTokens(tiny_sizes(), token_rms=1.0), torch.randn(BATCH, 3, 4, requires_grad=True)
    (told(factors) * torch.randn(BATCH, 2, 24)).sum().backward()
    assert (factors.grad != 0).all()
    assert told.project.weight.grad.any() and told.project.bias.grad.any()


@torch.no_grad()
def test_motion_is_heard_in_units_of_each_joints_own():
    torch.manual_seed(0)
    encoder = MotionEncoder(tiny_sizes(trace=3))
    motion, rms = torch.randn(BATCH, 3, 6) * 0.01, torch.linspace(0.01, 0.06, 6)
    assert torch.equal(encoder.rms, torch.ones(6)) and "rms" in encoder.state_dict()
    plain = encoder(motion)
    encoder.rms.copy_(rms)
    first, _, second = encoder.mlp
    numbers = (motion.double() / rms.double()).flatten(1).numpy()
    hidden = numbers @ first.weight.double().numpy().T + first.bias.double().numpy()
    hidden = torch.nn.functional.gelu(torch.from_numpy(hidden)).numpy()
    expected = hidden @ second.weight.double().numpy().T + second.bias.double().numpy()
    np.testing.assert_allclose(encoder(motion).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(plain.numpy(), expected, atol=1e-2)


def test_a_path_without_a_trace_reads_no_motion():
    path, inputs = path_and_inputs(trace=0)
    assert path.motion_encoder is None and path.anticipate(**inputs).factors.any()


@torch.no_grad()
def test_what_stands_at_masked_positions_does_not_matter():
    path, inputs = path_and_inputs()
    present = inputs["present"]
    present[1:3, 0] = False
    present[3] = False
    expected = path.anticipate(**inputs)
    altered = inputs["history"].clone()
    altered[~present] = float("nan")
    assert_same(path.anticipate(**inputs | {"history": altered}), expected)
    altered = inputs["history"].clone()
    altered[4] += torch.randn_like(altered[4])  # the encoder's LayerNorm takes a constant away
    assert not torch.allclose(path.anticipate(**inputs | {"history": altered}).memory[4], expected.memory[4])


@torch.no_grad()
def test_order_and_every_step_of_the_past_matter():
    path, inputs = path_and_inputs()
    history, motion = inputs["history"], inputs["motion"]
    memory = path.anticipate(**inputs).memory
    assert not torch.allclose(path.anticipate(**inputs | {"history": history.flip(1)}).memory, memory)
    for name, values in (("history", history), ("motion", motion)):
        for step in range(values.shape[1]):
            altered = values.clone()
            altered[:, step] += torch.randn_like(altered[:, step])
            assert not torch.allclose(path.anticipate(**inputs | {name: altered}).memory, memory), (name, step)
    with pytest.raises(ValueError, match="the motion has 1 control steps"):
        path.anticipate(**inputs | {"motion": motion[:, :1]})


@torch.no_grad()
def test_what_is_anticipated_is_one_recurrence_of_the_two_gated_cells():
    path, inputs = path_and_inputs()
    before = path.anticipate(**inputs)
    embedded = torch.nn.functional.layer_norm(inputs["text"], (24,), path.text_norm.weight, path.text_norm.bias)
    encoder = path.frozen_encoder
    seen = torch.cat([inputs["history"], inputs["now"][:, None]], dim=1)
    for row in range(BATCH):
        memory, intent = torch.zeros(1, 16), torch.zeros(1, 16)
        for step in range(seen.shape[1]):
            normed = torch.nn.functional.layer_norm(seen[row, step], (24,), encoder.norm.weight, encoder.norm.bias)
            encoded = encoder.project(normed.reshape(1, -1))
            if step == seen.shape[1] - 1:
                first, _, second = path.motion_encoder.mlp
                heard = first((inputs["motion"][row] / path.motion_encoder.rms).reshape(1, -1))
                encoded = encoded + second(torch.nn.functional.gelu(heard))
            memory = path.memory_cell(encoded, memory)
            joined = torch.cat([memory, embedded[row : row + 1]], dim=1)
            intent = path.intent_cell(path.intent_input(joined), intent)
        torch.testing.assert_close(before.memory[row : row + 1], memory, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(before.intent[row : row + 1], intent, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(before.factors, path.factors(before.memory, before.intent))


@torch.no_grad()
@pytest.mark.parametrize("history", [1, 4])
def test_an_episodes_first_decision_has_the_present_alone(history):
    path, inputs = path_and_inputs(history=history)
    first = inputs | {"present": torch.zeros_like(inputs["present"])}
    before = path.anticipate(**first)
    assert_same(path.anticipate(**first | {"history": torch.randn_like(inputs["history"])}), before)
    assert not torch.allclose(path.anticipate(**first | {"now": inputs["now"].flip(0)}).factors, before.factors)


@torch.no_grad()
def test_carried_memory_lets_the_motion_change_the_anticipated_factors():
    path, inputs = path_and_inputs()
    before = path.anticipate(**inputs).factors
    other = path.anticipate(**inputs | {"motion": torch.randn_like(inputs["motion"])}).factors
    assert ((other - before).flatten(1).norm(dim=1) > 1e-3).all()


@torch.no_grad()
def test_reset_memory_reads_neither_past_nor_motion_but_the_present():
    path, inputs = path_and_inputs(memory="reset")
    before = path.anticipate(**inputs)
    for name in ("history", "motion"):
        assert_same(path.anticipate(**inputs | {name: torch.randn_like(inputs[name])}), before)
    assert not torch.allclose(path.anticipate(**inputs | {"now": inputs["now"].flip(0)}).factors, before.factors)


@torch.no_grad()
def test_constant_factors_depend_on_nothing_and_factors_of_memory_on_memory_and_intent():
    first, second = torch.randn(BATCH, 16), torch.randn(BATCH, 16)
    constant, _ = path_and_inputs(factor_source="constant")
    assert torch.equal(constant.factors(first, second), constant.factors(second, first))
    path, _ = path_and_inputs()
    factors = path.factors(first, second)
    assert factors.shape == (BATCH, 3, 4)
    assert not torch.allclose(path.factors(first + 0.5, second), factors)
    assert not torch.allclose(path.factors(first, second + 0.5), factors)


@torch.no_grad()
def test_the_adapted_pass_updates_what_was_anticipated():
    path, inputs = path_and_inputs()
    pooled, text = torch.randn(BATCH, 4, 24), inputs["text"]
    before = path.anticipate(**inputs)
    state = path.update(before, pooled, text)
    shapes = {"memory": (16,), "intent": (16,), "factors": (3, 4), "semantic": (24,), "intent_view": (3, 4)}
    shapes |= {"alignment": (), "anticipated": (3, 4)}
    assert {name: tuple(value.shape[1:]) for name, value in vars(state).items()} == shapes
    other = path.anticipate(**inputs | {"history": torch.randn_like(inputs["history"])})
    for changed in (
        path.update(before, pooled + torch.randn_like(pooled), text),
        path.update(other, pooled, text),
        path.update(before, pooled, text + torch.randn_like(text)),
    ):
        assert not torch.allclose(changed.factors, state.factors)


def test_the_parameters_before_the_pass_are_those_that_the_anticipated_factors_depend_on():
    for source in ("memory", "constant"):
        path, inputs = path_and_inputs(factor_source=source)
        before = path.anticipate(**inputs)
        (before.factors.sum() + before.memory.sum() + before.intent.sum()).backward()
        reached = {name for name, one in path.named_parameters() if one.grad is not None}
        unread = {"constant": "factor_network", "memory": "constant_factors"}[source]
        assert {name for name in path.before_pass() if not name.startswith(unread)} == reached
