"""The telepathy path: an identity at the start, a memory that reads the past and only the past."""

import numpy as np
import pytest
import torch

from sigma.policy.telepathy import Carry, FiLM, StateEncoder, TelepathyPath
from tests.worlds import tiny_sizes

BATCH = 5


def path_and_past(seed: int = 0, **changes):
    """A path with random weights, the pooled past of five decisions, and their instructions."""
    torch.manual_seed(seed)
    sizes = tiny_sizes(**changes)
    path = TelepathyPath(sizes).eval()
    history = torch.randn(BATCH, sizes.history - 1, sizes.pools, sizes.width)
    return path, history, torch.ones(BATCH, sizes.history - 1, dtype=torch.bool), torch.randn(BATCH, sizes.width)


def assert_same(one: Carry, other: Carry) -> None:
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name)), name


def test_film_is_the_identity_to_the_bit_at_the_start_and_for_absent_factors():
    torch.manual_seed(0)
    film, vision, factors = FiLM(3, 4, 24), torch.randn(BATCH, 2, 4, 24), torch.randn(BATCH, 3, 4)
    assert torch.equal(film(vision, factors), vision)
    torch.nn.init.normal_(film.modulation.weight)
    assert not torch.allclose(film(vision, factors), vision)
    assert torch.equal(film(vision, torch.zeros_like(factors)), vision)


def test_film_computes_its_equation():
    torch.manual_seed(0)
    film, vision, factors = FiLM(3, 4, 24), torch.randn(BATCH, 2, 4, 24), torch.randn(BATCH, 3, 4)
    torch.nn.init.normal_(film.modulation.weight)
    torch.nn.init.normal_(film.log_gain)
    gain, weight = np.exp(film.log_gain.detach().numpy()), film.modulation.weight.detach().numpy()
    expected = np.empty(vision.shape)
    for row in range(BATCH):
        modulation = weight @ (gain * factors[row].numpy()).reshape(-1)
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


@torch.no_grad()
def test_what_stands_at_masked_positions_does_not_matter():
    path, history, present, text = path_and_past()
    present[1:3, 0] = False
    present[3] = False
    expected = path.carry(history, present, text)
    altered = history.clone()
    altered[~present] = float("nan")
    assert_same(path.carry(altered, present, text), expected)
    altered = history.clone()
    altered[4] += torch.randn_like(altered[4])  # the encoder's LayerNorm takes a constant away
    assert not torch.allclose(path.carry(altered, present, text).memory[4], expected.memory[4])


@torch.no_grad()
def test_order_and_every_step_of_the_past_matter():
    path, history, present, text = path_and_past()
    memory = path.carry(history, present, text).memory
    assert not torch.allclose(path.carry(history.flip(1), present, text).memory, memory)
    for step in range(history.shape[1]):
        altered = history.clone()
        altered[:, step] += torch.randn_like(altered[:, step])
        assert not torch.allclose(path.carry(altered, present, text).memory, memory), step


@torch.no_grad()
def test_the_past_is_one_recurrence_of_the_two_gated_cells():
    path, history, present, text = path_and_past()
    carry = path.carry(history, present, text)
    embedded = torch.nn.functional.layer_norm(text, (24,), path.text_norm.weight, path.text_norm.bias)
    for row in range(BATCH):
        memory, intent = torch.zeros(1, 16), torch.zeros(1, 16)
        for step in range(history.shape[1]):
            encoder = path.past_encoder
            normed = torch.nn.functional.layer_norm(history[row, step], (24,), encoder.norm.weight, encoder.norm.bias)
            memory = path.memory_cell(encoder.project(normed.reshape(1, -1)), memory)
            joined = torch.cat([memory, embedded[row : row + 1]], dim=1)
            intent = path.intent_cell(path.intent_input(joined), intent)
        torch.testing.assert_close(carry.memory[row : row + 1], memory, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(carry.intent[row : row + 1], intent, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("history", [1, 4])
def test_an_episodes_first_decision_has_no_past(history):
    path, past, _, text = path_and_past(history=history)
    carry = path.carry(past, torch.zeros(BATCH, history - 1, dtype=torch.bool), text)
    assert not carry.memory.any() and not carry.intent.any() and not carry.present.any()
    assert not path.previous_factors(carry).any()
    assert path.factors(carry.memory, carry.intent).any()


@torch.no_grad()
def test_reset_memory_does_not_read_the_past():
    path, history, present, text = path_and_past(memory="reset")
    carry = path.carry(history, present, text)
    assert_same(carry, path.carry(torch.randn_like(history), present, text))
    assert not carry.memory.any() and not carry.intent.any()


@torch.no_grad()
def test_reset_memory_leaves_film_the_factors_of_the_empty_memory_where_there_is_a_past():
    path, history, present, text = path_and_past(memory="reset")
    present[1] = False
    previous = path.previous_factors(path.carry(history, present, text))
    empty = path.factors(torch.zeros(BATCH, 16), torch.zeros(BATCH, 16))
    begun = [0, 2, 3, 4]
    assert empty.any() and torch.equal(previous[begun], empty[begun]) and not previous[1].any()


@torch.no_grad()
def test_constant_factors_depend_on_nothing_and_factors_of_memory_on_memory_and_intent():
    first, second = torch.randn(BATCH, 16), torch.randn(BATCH, 16)
    constant, *_ = path_and_past(factor_source="constant")
    assert torch.equal(constant.factors(first, second), constant.factors(second, first))
    path, *_ = path_and_past()
    factors = path.factors(first, second)
    assert factors.shape == (BATCH, 3, 4)
    assert not torch.allclose(path.factors(first + 0.5, second), factors)
    assert not torch.allclose(path.factors(first, second + 0.5), factors)


@torch.no_grad()
def test_the_present_updates_what_the_past_left():
    path, history, present, text = path_and_past()
    now = torch.randn(BATCH, 4, 24)
    carry = path.carry(history, present, text)
    thought = path.think(carry, now, text)
    shapes = {"memory": (16,), "intent": (16,), "factors": (3, 4), "semantic": (24,), "intent_view": (3, 4)}
    assert {name: tuple(value.shape[1:]) for name, value in vars(thought).items()} == shapes
    for other in (
        path.think(carry, now + torch.randn_like(now), text),
        path.think(path.carry(torch.randn_like(history), present, text), now, text),
        path.think(carry, now, text + torch.randn_like(text)),
    ):
        assert not torch.allclose(other.factors, thought.factors)
