"""The maps by which factors act on the base, zero at the start; heads are loaded exactly or not at all, and their files
are bytes that depend on them alone."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sigma.policy.model.heads import (
    FILE,
    SOURCE_FILE,
    FactorTokens,
    FiLM,
    ResidualBranches,
    TelepathyHeads,
    build_heads,
    describe_heads,
    load_heads,
    save_heads,
)
from sigma.shared.errors import SigmaError
from tests.worlds import tiny_sizes

BATCH, BRANCHES = 5, ("condition", "vector", "chunk", "trajectory")
SIZES = tiny_sizes(factor_tokens=2)


@pytest.fixture
def folder(tmp_path):
    save_heads(build_heads(SIZES, 1.5, seed=0), tmp_path)
    return tmp_path


def empty() -> TelepathyHeads:
    return build_heads(SIZES, 1.0, seed=9)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(module: torch.nn.Module) -> torch.nn.Module:
    """The module with random numbers for its zero weights."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=number + 10)
    return module


def passed_on(factors: torch.Tensor) -> np.ndarray:
    """N(τ) (B, K·F): the factors of a decision with mean 0 and deviation 1."""
    flat = factors.double().numpy().reshape(len(factors), -1)
    return (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)


def array(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


@torch.no_grad()
def test_film_is_the_identity_to_the_bit_at_the_start_and_then_follows_its_equation():
    film, vision, factors = FiLM(SIZES), random(BATCH, 2, 4, 24), random(BATCH, 3, 4, seed=1)
    assert torch.equal(film(vision, factors), vision)
    awake(film)
    gain, weight = np.exp(array(film.log_gain)), array(film.modulation.weight)
    expected = np.empty(vision.shape)
    for row, told in enumerate(passed_on(factors)):
        modulation = weight @ (gain * told.reshape(3, 4)).reshape(-1)
        expected[row] = (1 + modulation[:24]) * vision[row].double().numpy() + modulation[24:]
    np.testing.assert_allclose(film(vision, factors).numpy(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("branches", [BRANCHES, BRANCHES[:1], BRANCHES[1:2], BRANCHES[2:], BRANCHES[::-1]])
def test_branches_are_zero_at_the_start_and_then_reach_the_steps_of_their_span(branches):
    module, factors = ResidualBranches(tiny_sizes(branches=branches)), random(BATCH, 3, 4, seed=1)
    assert set(module.maps) == set(branches), "no other branch has a map that could be trained"
    silent = module(factors)
    assert not silent.condition.any() and not silent.tokens.any()
    assert (tuple(silent.condition.shape), tuple(silent.tokens.shape)) == ((BATCH, 16), (BATCH, 16, 16))
    awake(module)
    steering, told = module(factors), passed_on(factors)
    moved = {name: told @ array(layer.weight).T for name, layer in module.maps.items()}
    nothing = np.zeros((BATCH, 16))
    np.testing.assert_allclose(steering.condition.numpy(), moved.get("condition", nothing), rtol=1e-4, atol=1e-5)
    for step in range(16):
        # The decision's step is that of the vector, the first four are the chunk, all sixteen the trajectory.
        spans = [name for name, steps in (("vector", 1), ("chunk", 4), ("trajectory", 16)) if step < steps]
        expected = sum((moved.get(name, nothing) for name in spans), nothing)
        np.testing.assert_allclose(steering.tokens[:, step].numpy(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_factor_tokens_follow_their_equation_at_the_size_of_text_embeddings():
    told, factors = FactorTokens(SIZES, token_rms=0.4), random(BATCH, 3, 4) * 3 + 1
    weight, bias = array(told.project.weight), array(told.project.bias)
    values = (passed_on(factors) @ weight.T + bias).reshape(BATCH, 2, 24)
    expected = 0.4 * (values - values.mean(2, keepdims=True)) / values.std(2, keepdims=True)
    np.testing.assert_allclose(told(factors).numpy(), expected, rtol=1e-3, atol=1e-4)


def test_heads_have_the_parts_that_the_sizes_ask_for():
    whole, bare = empty(), build_heads(tiny_sizes(film=False, branches=()), 1.0, seed=0)
    for name in ("film", "branches", "factor_tokens"):
        assert getattr(whole, name) is not None and getattr(bare, name) is None
    assert {name.partition(".")[0] for name in bare.state_dict()} == {"path"}


@pytest.mark.parametrize("name", [FILE, SOURCE_FILE])
def test_both_forms_restore_every_tensor(folder, name):
    heads = empty()
    load_heads(heads, folder / name)
    expected = build_heads(SIZES, 1.5, seed=0).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in heads.state_dict().items())
    assert heads.factor_tokens.token_rms.item() == 1.5


def test_the_files_bytes_depend_on_the_tensors_alone(folder, tmp_path_factory):
    again, other = tmp_path_factory.mktemp("again"), tmp_path_factory.mktemp("other")
    save_heads(build_heads(SIZES, 1.5, seed=0), again)
    save_heads(build_heads(SIZES, 1.5, seed=1), other)
    for name in (FILE, SOURCE_FILE):
        assert (folder / name).read_bytes() == (again / name).read_bytes()
        assert (folder / name).read_bytes() != (other / name).read_bytes()


def test_building_is_seeded_and_leaves_the_callers_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_heads(SIZES, 1.0, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def break_missing(tensors, name):
    del tensors[name]


def break_extra(tensors, name):
    tensors[name + "_more"] = torch.zeros(1)


def break_renamed(tensors, name):
    tensors[name.replace("gain", "volume")] = tensors.pop(name)


def break_shape(tensors, name):
    tensors[name] = torch.zeros(2)


def break_nan(tensors, name):
    tensors[name][0] = float("nan")


def break_type(tensors, name):
    tensors[name] = torch.zeros(3, 1, dtype=torch.int64)


BROKEN = [
    (break_missing, r"tensor film\.log_gain is missing"),
    (break_extra, r"tensor film\.log_gain_more is unknown"),
    (break_renamed, r"tensor film\.log_gain is missing"),
    (break_shape, r"tensor film\.log_gain has shape \(2,\), expected \(3, 1\)"),
    (break_nan, r"tensor film\.log_gain holds a non-finite number"),
    (break_type, r"tensor film\.log_gain holds torch\.int64"),
]


@pytest.mark.parametrize("name", [FILE, SOURCE_FILE])
@pytest.mark.parametrize(("fault", "message"), BROKEN)
def test_a_tensor_that_does_not_fit_is_named(folder, name, fault, message):
    tensors = dict(load_file(folder / FILE))
    fault(tensors, "film.log_gain")
    if name == FILE:
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    heads = empty()
    before = {key: tensor.clone() for key, tensor in heads.state_dict().items()}
    with pytest.raises(SigmaError, match=message) as caught:
        load_heads(heads, folder / name)
    assert name in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in heads.state_dict().items())


class Payload:
    """What a hostile file holds: unpickling it would create a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_a_payload_is_refused_and_never_runs(folder, tmp_path):
    target = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(target))).close()
    assert target.exists(), "the payload must work, or the test shows nothing"
    target.unlink()
    torch.save({"film.log_gain": Payload(target)}, folder / SOURCE_FILE)
    with pytest.raises(SigmaError, match="not a plain file of tensors"):
        load_heads(empty(), folder / SOURCE_FILE)
    (folder / SOURCE_FILE).write_bytes(pickle.dumps(Payload(target)))
    with pytest.raises(SigmaError, match="not a plain file of tensors"):
        load_heads(empty(), folder / SOURCE_FILE)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x00" * 64])
@pytest.mark.parametrize("name", [FILE, SOURCE_FILE])
def test_an_unreadable_file_is_one_clear_line(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(SigmaError, match="not a plain file of tensors") as caught:
        load_heads(empty(), folder / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_one_that_holds_no_mapping_are_refused(folder):
    with pytest.raises(SigmaError, match=r"gone\.pt: not found"):
        load_heads(empty(), folder / "gone.pt")
    torch.save([torch.zeros(1)], folder / SOURCE_FILE)
    with pytest.raises(SigmaError, match="expected a mapping of names to tensors"):
        load_heads(empty(), folder / SOURCE_FILE)


def test_the_description_is_that_of_all_numbers_together():
    heads = build_heads(SIZES, 1.5, seed=0)
    found = describe_heads(heads)
    numbers = np.concatenate([tensor.double().numpy().ravel() for tensor in heads.state_dict().values()])
    assert found["tensors"] == len(heads.state_dict())
    expected = [numbers.mean(), numbers.std(), np.sqrt((numbers**2).mean())]
    np.testing.assert_allclose([found["mean"], found["std"], found["rms"]], expected, rtol=1e-9)
    with torch.no_grad():
        heads.film.log_gain[0] += 1e-3
    assert describe_heads(heads)["digest"] != found["digest"]
