"""The telepathy path: a memory of the whole episode that reads the past and only the past, and factors of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma.policy.model.telepathy import Memory, StandardisedInput, TelepathyPath, TelepathyState, normalise_factors
from sigma.policy.pi05.observation import Observation, Past
from tests.worlds import tiny_sizes

BATCH, WIDTH, INNER, VIEWS, POOLS = 5, 24, 16, 4, 4  # two cameras: a mean and a maximum of each


def path_of(seed: int = 0, **changes) -> TelepathyPath:
    """A path with random weights that standardises as after a look at the train windows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        path = TelepathyPath(tiny_sizes(**changes)).eval()
        for part in (path.views, path.changes, path.present, path.motion):
            if part is not None:
                part.measure(3 * torch.randn(50, *part.centre.shape) + 1)
    return path


def past_of(episodes: int, reads: int, seed: int = 0) -> Past:
    """``episodes`` rows of ``reads`` reads, and a decision of each row after all of them."""
    draw = torch.Generator().manual_seed(seed)
    means = 3 * torch.randn(episodes, reads, VIEWS // 2, WIDTH, generator=draw) + 1
    maxima = means + torch.rand(means.shape, generator=draw)
    return Past(
        views=torch.cat([means, maxima], dim=2),
        states=torch.randn(episodes, reads, 6, generator=draw),
        text=torch.randn(episodes, 1, WIDTH, generator=draw).expand(-1, reads, -1),
        episode=torch.arange(episodes),
        reads=torch.full((episodes,), reads),
    )


def present_of(path: TelepathyPath, rows: int = BATCH, seed: int = 1) -> Observation:
    draw, sizes = torch.Generator().manual_seed(seed), path.sizes
    words = torch.zeros(rows, 3, dtype=torch.int64)
    return Observation(
        vision=torch.randn(rows, sizes.views, 4, WIDTH, generator=draw),
        tokens=words,
        mask=words == 0,
        groups=words.to(torch.int8),
        state=torch.randn(rows, 6, generator=draw),
        text=torch.randn(rows, WIDTH, generator=draw),
        motion=torch.randn(rows, sizes.trace, 6, generator=draw),
        pooled=torch.randn(rows, POOLS, WIDTH, generator=draw),
    )


def carried_of(rows: int = BATCH, seed: int = 2) -> Memory:
    draw = torch.Generator().manual_seed(seed)
    shapes = (INNER,), (INNER,), (VIEWS, WIDTH)
    return Memory(*(torch.randn(rows, *shape, generator=draw) for shape in shapes))


def read_of(past: Past, read: int) -> Observation:
    """What each episode of ``past`` showed at this read, as a decision would see it."""
    means, maxima = past.views[:, read, : VIEWS // 2], past.views[:, read, VIEWS // 2 :]
    # Of two tokens with this mean and this maximum of every number, one has the maximum.
    vision = torch.stack([maxima, 2 * means - maxima], dim=2)
    words = torch.zeros(len(vision), 3, dtype=torch.int64)
    return Observation(
        vision=vision,
        tokens=words,
        mask=words == 0,
        groups=words.to(torch.int8),
        state=past.states[:, read],
        text=past.text[:, read],
        motion=torch.zeros(len(vision), 2, 6),
    )


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def linear(layer: torch.nn.Linear, values: np.ndarray) -> np.ndarray:
    return values @ numbers(layer.weight).T + numbers(layer.bias)


def standardised(part: StandardisedInput, values: np.ndarray) -> np.ndarray:
    standard = np.clip((values - numbers(part.centre)) / numbers(part.spread), -5, 5)
    return linear(part.project, standard.reshape(*values.shape[: -part.centre.ndim], -1))


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def gru(cell: torch.nn.GRU, seen: np.ndarray, state: np.ndarray) -> np.ndarray:
    """One step of a gated recurrent unit (Cho et al., 2014), as PyTorch places its gates."""
    weight = {name: numbers(parameter) for name, parameter in cell.named_parameters()}
    given = (seen @ weight["weight_ih_l0"].T + weight["bias_ih_l0"]).reshape(-1, 3, INNER)
    held = (state @ weight["weight_hh_l0"].T + weight["bias_hh_l0"]).reshape(-1, 3, INNER)
    reset, update = (sigmoid(given[:, gate] + held[:, gate]) for gate in (0, 1))
    new = np.tanh(given[:, 2] + reset * held[:, 2])
    return (1 - update) * new + update * state


def layer_norm(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(-1, keepdims=True)) / np.sqrt(values.var(-1, keepdims=True) + 1e-5)


def gelu(values: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return 0.5 * values * (1 + erf(values / np.sqrt(2)))


def test_what_is_passed_on_of_the_factors_is_their_direction():
    factors = torch.randn(BATCH, 3, 4, generator=torch.Generator().manual_seed(0)) * 5 + 2
    flat = numbers(factors.flatten(1))
    expected = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
    np.testing.assert_allclose(normalise_factors(factors).flatten(1).numpy(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_features_are_heard_in_units_of_their_own_spread():
    torch.manual_seed(0)
    part = StandardisedInput((2, 3), INNER)
    scale = torch.tensor([[0.01, 1.0, 100.0], [1.0, 1.0, 0.0]])
    samples = torch.randn(4000, 2, 3) * scale + 7
    part.measure(samples)
    spread = numbers(samples).std(0)
    # What hardly varies counts as a tenth of the typical spread: its last digits must not be blown up.
    expected = np.maximum(spread, 0.1 * np.sqrt((spread**2).mean()))
    np.testing.assert_allclose(numbers(part.spread), expected, rtol=1e-6)
    far = samples[:BATCH].clone()
    far[0] = 1e9  # clipped
    given = np.clip((numbers(far) - numbers(samples).mean(0)) / expected, -5, 5).reshape(BATCH, -1)
    np.testing.assert_allclose(part(far).numpy(), linear(part.project, given), rtol=1e-4, atol=1e-4)
    assert {"centre", "spread"} <= part.state_dict().keys()


@torch.no_grad()
def test_memory_and_intent_follow_their_equations_read_by_read():
    path, past = path_of(), past_of(BATCH, 6)
    text = layer_norm(numbers(past.text[:, 0]))
    memory, intent = np.tanh(linear(path.memory_start, text)), np.tanh(linear(path.intent_start, text))
    before = numbers(path.views.centre)  # the first read is compared with an ordinary picture
    for read in range(6):
        views = numbers(past.views[:, read])
        seen = standardised(path.views, views) + standardised(path.changes, views - before)
        seen, before = seen + linear(path.state, numbers(past.states[:, read])), views
        memory = gru(path.memory_cell, seen, memory)
        intent = gru(path.intent_cell, linear(path.intent_input, np.concatenate([memory, text], axis=1)), intent)
    found = path.recall(past, past.text[:, 0])
    np.testing.assert_allclose(found.memory.numpy(), memory, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.intent.numpy(), intent, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_read_at_a_time_is_the_whole_episode_at_once():
    """500 reads: at the shipped stride more than six minutes of an episode at 10 frames a second."""
    path, past = path_of(), past_of(3, 500)
    episode, reads = torch.arange(3).repeat_interleave(501), torch.arange(501).repeat(3)
    batched = path.recall(replace(past, episode=episode, reads=reads), past.text[episode, 0])
    carried = begin = path.start(past.text[:, 0])
    for read in range(501):
        for part, streamed in vars(carried).items():
            assert streamed.shape == getattr(begin, part).shape, "what is carried never grows"
            expected = getattr(batched, part).unflatten(0, (3, 501))[:, read]
            torch.testing.assert_close(streamed, expected, rtol=0, atol=1e-5)
        if read < 500:
            carried = path.read(carried, read_of(past, read))


@st.composite
def decisions(draw):
    """Decisions of several episodes, in any order and number, and one of them."""
    episodes, reads = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rows = draw(st.lists(st.tuples(st.integers(0, episodes - 1), st.integers(0, reads)), min_size=1, max_size=6))
    row = draw(st.integers(0, len(rows) - 1))
    one = draw(st.integers(0, max(rows[row][1] - 1, 0)))  # a read before that decision, where there is any
    return episodes, reads, rows, row, one, draw(st.integers(0, 2**32 - 1))


@torch.no_grad()
@settings(deadline=None, max_examples=40)
@given(decisions())
def test_a_decision_reads_all_of_its_own_past_and_nothing_else(drawn):
    episodes, reads, rows, row, one, seed = drawn
    path, past, draw = path_of(), past_of(episodes, reads, seed), torch.Generator().manual_seed(seed)
    episode, count = rows[row]
    past = replace(past, episode=torch.tensor([one for one, _ in rows]), reads=torch.tensor([many for _, many in rows]))
    text = past.text[past.episode, 0]

    def altered(name: str, chosen: torch.Tensor) -> torch.Tensor:
        """Memory and intent of the decision where these reads (E, R) of all episodes were others."""
        values = getattr(past, name)
        noise = torch.randn(values.shape, generator=draw)
        mask = chosen.view(*chosen.shape, *[1] * (values.ndim - 2))
        found = path.recall(replace(past, **{name: torch.where(mask, noise, values)}), text)
        return torch.cat([part[row].flatten() for part in vars(found).values()])

    plain = altered("states", torch.zeros(episodes, reads, dtype=torch.bool))
    own = torch.zeros(episodes, reads, dtype=torch.bool)
    own[episode, :count] = True
    single = torch.zeros_like(own)
    single[episode, one] = True
    for name in ("views", "states"):
        assert torch.equal(altered(name, ~own), plain), name
        if count:
            assert not torch.equal(altered(name, single), plain), name


def test_decisions_that_share_an_unroll_learn_what_each_learns_from_an_unroll_of_its_own():
    path, shared = path_of(), past_of(2, 12)
    episode, reads = torch.tensor([0, 0, 1, 0, 1, 0]), torch.tensor([12, 3, 7, 0, 12, 9])
    shared = replace(shared, episode=episode, reads=reads)
    alone = [
        Past(
            *(getattr(shared, name)[one : one + 1, :count] for name in ("views", "states", "text")),
            episode=torch.tensor([0]),
            reads=torch.tensor([count]),
        )
        for one, count in zip(episode.tolist(), reads.tolist(), strict=True)
    ]
    text, results = shared.text[episode, 0], []
    for pasts in ([(shared, text)], list(zip(alone, text[:, None], strict=True))):
        path.zero_grad()
        found = [path.recall(*given) for given in pasts]
        memory, intent = (torch.cat([getattr(one, name) for one in found]) for name in ("memory", "intent"))
        (memory.square().sum() + intent.square().sum()).backward()
        gradients = {name: one.grad.clone() for name, one in path.named_parameters() if one.grad is not None}
        results.append((memory, intent, gradients))
    (*expected, gradients), (*found, others) = results
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
    assert gradients.keys() == others.keys() and "memory_cell.weight_hh_l0" in gradients
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (others[name] - gradient).abs().max() <= 1e-6 * largest, name


@torch.no_grad()
def test_the_order_of_the_past_matters():
    path, past = path_of(), past_of(BATCH, 4)
    turned = replace(past, views=past.views.flip(1), states=past.states.flip(1))
    assert not torch.allclose(path.recall(turned, past.text[:, 0]).memory, path.recall(past, past.text[:, 0]).memory)


@torch.no_grad()
def test_cleared_memory_ignores_the_past():
    path, past = path_of(memory="cleared"), past_of(BATCH, 4)
    text = past.text[:, 0]
    begin = path.start(text)
    for found in (path.recall(past, text), path.read(carried_of(), read_of(past, 0))):
        for name, value in vars(begin).items():
            assert torch.equal(getattr(found, name), value), name
    assert not torch.equal(path.start(text + torch.randn_like(text)).memory, begin.memory)


def test_an_untrained_memory_lets_the_first_read_be_learned_from_a_minute_later():
    """PyTorch's own initial biases forget half with every read; chrono initialisation spreads the time constants."""
    shares = {}
    for name in ("chrono", "plain"):
        path, past = path_of(), past_of(4, 60)
        if name == "plain":
            path.memory_cell.reset_parameters()
        states = past.states.requires_grad_(True)
        path.recall(replace(past, states=states), past.text[:, 0]).memory.square().sum().backward()
        gradient = states.grad.flatten(2).norm(dim=2).mean(0)
        shares[name] = (gradient[0] / gradient[-1]).item()
    assert shares["chrono"] > 0.01 and shares["plain"] < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("present", ["vision", "backbone", "motion"])
@pytest.mark.parametrize("trace", [0, 2])
def test_factors_follow_their_equation(present, trace):
    path = path_of(present=present, trace=trace)
    observation, carried = present_of(path), carried_of()
    now = linear(path.present_state, numbers(observation.state))
    if present != "motion":
        vision = numbers(observation.vision)
        picture = np.concatenate([vision.mean(2), vision.max(2)], axis=1)
        picture = picture if present == "vision" else numbers(observation.pooled)
        now = now + standardised(path.present, picture)
    if trace:
        now = now + standardised(path.motion, numbers(observation.motion))
    first, _, second = path.factor_network
    joined = np.concatenate([numbers(carried.memory), numbers(carried.intent), gelu(now)], axis=1)
    expected = linear(second, gelu(linear(first, joined))).reshape(BATCH, 3, 4)
    np.testing.assert_allclose(path(observation, carried).factors.numpy(), expected, rtol=1e-4, atol=1e-5)


READ = {
    "vision": {"vision", "state", "motion"},
    "backbone": {"pooled", "state", "motion"},
    "motion": {"state", "motion"},
}


@torch.no_grad()
@pytest.mark.parametrize("present", READ)
def test_factors_read_memory_intent_and_what_of_the_present_is_named(present):
    path = path_of(present=present)
    observation, carried = present_of(path), carried_of()
    plain = path(observation, carried).factors
    for name in ("vision", "pooled", "state", "motion"):
        moved = replace(observation, **{name: getattr(observation, name) + 0.5})
        assert torch.equal(path(moved, carried).factors, plain) is (name not in READ[present]), name
    for name in ("memory", "intent"):
        moved = replace(carried, **{name: getattr(carried, name) + 0.5})
        assert not torch.allclose(path(observation, moved).factors, plain), name


def test_what_the_factors_need_and_lack_is_named():
    path = path_of(present="backbone")
    observation, carried = present_of(path), carried_of()
    with pytest.raises(ValueError, match="the frozen base's pass over the present comes first"):
        path(replace(observation, pooled=None), carried)
    with pytest.raises(ValueError, match="the motion has 1 control steps; the model reads 2"):
        path(replace(observation, motion=observation.motion[:, :1]), carried)


@torch.no_grad()
def test_constant_factors_depend_on_nothing():
    path = path_of(factor_source="constant")
    one = path(present_of(path), carried_of()).factors
    assert torch.equal(one, path(present_of(path, seed=5), carried_of(seed=6)).factors)
    assert torch.equal(one, path.constant_factors.expand(BATCH, -1, -1))


@torch.no_grad()
def test_memory_is_aligned_with_the_instruction_and_the_intent_with_the_factors():
    path = path_of()
    observation, carried = present_of(path), carried_of()
    state = path(observation, carried)
    shapes = {"memory": (INNER,), "intent": (INNER,), "factors": (3, 4), "semantic": (WIDTH,)}
    shapes |= {"intent_view": (3, 4), "alignment": ()}
    assert isinstance(state, TelepathyState)
    assert {name: tuple(value.shape[1:]) for name, value in vars(state).items()} == shapes
    semantic, text = linear(path.semantic_head, numbers(carried.memory)), numbers(observation.text)
    np.testing.assert_allclose(state.semantic.numpy(), semantic, rtol=1e-4, atol=1e-5)
    cosine = (semantic * text).sum(1) / np.linalg.norm(semantic, axis=1) / np.linalg.norm(text, axis=1)
    np.testing.assert_allclose(state.alignment.numpy(), cosine, rtol=1e-4, atol=1e-5)
    view = linear(path.intent_view, numbers(carried.intent)).reshape(BATCH, 3, 4)
    np.testing.assert_allclose(state.intent_view.numpy(), view, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_memory_is_asked_how_the_episode_began():
    path, past = path_of(), past_of(3, 5)
    past = replace(past, episode=torch.tensor([0, 2, 1, 2]), reads=torch.tensor([5, 0, 1, 3]))
    memory = carried_of(4).memory
    told = linear(path.beginning, numbers(memory)).reshape(4, VIEWS, WIDTH)
    first = numbers(past.views[past.episode, 0])
    first = np.clip((first - numbers(path.views.centre)) / numbers(path.views.spread), -5, 5)
    expected = ((told - first) ** 2).mean(axis=(1, 2))
    expected[1] = 0  # nothing was read before that decision
    np.testing.assert_allclose(path.forgetting(memory, past).numpy(), expected, rtol=1e-4)
    unread = replace(past, views=past.views[:, :0], reads=torch.zeros(4, dtype=torch.int64))
    assert not path.forgetting(memory, unread).any()
    assert not path_of(memory="cleared").forgetting(memory, past).any()  # what was cleared cannot be told
