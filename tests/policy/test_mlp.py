"""The residual MLP: as many parameters as the telepathy heads, and only the present to read."""

import pytest
import torch

from sigma.errors import SigmaError
from sigma.parameters import read_yaml
from sigma.policy.heads import MLPHeads, TelepathyHeads, build_heads, parameter_count
from sigma.policy.mlp import matching_width
from sigma.policy.residuals import SCALES
from tests.worlds import ROOT, tiny_sizes


def shipped_sizes(**changes):
    """Sizes of the shipped parameters on the embedded base."""
    values = read_yaml(ROOT / "params.yaml")["telepathy"]
    names = ("factors", "factor_dim", "state_tokens", "head_layers", "head_heads")
    sizes = {name: values[name] for name in names} | {"inner": values["width"], "read_layers": (1, 2)}
    sizes |= {"width": 128, "layers": 3, "horizon": 16, "chunk": 8, "history": 4}
    return tiny_sizes(**sizes | changes)


@pytest.mark.parametrize("sizes", [tiny_sizes(), shipped_sizes(), shipped_sizes(inner=256, head_layers=3)])
def test_its_parameters_are_as_many_as_those_of_the_telepathy_heads(sizes):
    heads, mlp = TelepathyHeads(sizes, 1.0), MLPHeads(sizes)
    assert parameter_count(mlp) == pytest.approx(parameter_count(heads), rel=0.02)
    assert not any(name.startswith(("path", "film", "state_encoder")) for name, _ in mlp.named_parameters())


def test_sizes_at_which_the_two_cannot_be_equal_are_refused():
    with pytest.raises(SigmaError, match="legal: sizes at which they agree within 2 %"):
        matching_width(tiny_sizes(), 10)


def inputs(sizes, batch: int = 3):
    torch.manual_seed(0)
    features = [torch.randn(batch, 7, sizes.width) for _ in sizes.read_layers]
    return features, torch.randn(batch, sizes.state_dim), torch.randn(batch, sizes.horizon, sizes.action_dim)


def pool(features):
    """Four pooled vectors of seven tokens."""
    return torch.stack([part.mean(1) for part in features.split([2, 2, 2, 1], dim=1)], dim=1)


@torch.no_grad()
def test_it_starts_at_zero_and_then_reads_features_state_and_base_action():
    sizes = tiny_sizes(architecture="mlp")
    mlp = build_heads(sizes, 1.0, seed=0).residuals
    features, state, base = inputs(sizes)
    zero = mlp(features, pool, state, base)
    shapes = {"vector": (3, 1, 6), "chunk": (3, 4, 6), "trajectory": (3, 8, 6)}
    assert {scale: tuple(getattr(zero, scale).shape) for scale in SCALES} == shapes
    assert not any(getattr(zero, scale).any() for scale in SCALES)
    for head in mlp.out.values():
        torch.nn.init.normal_(head.weight)
    plain = mlp(features, pool, state, base)
    for other in (
        mlp([features[0], features[1] + torch.randn_like(features[1])], pool, state, base),
        mlp(features, pool, state + 1, base),
        mlp(features, pool, state, base + 1),
    ):
        assert all(not torch.allclose(getattr(other, scale), getattr(plain, scale)) for scale in SCALES)


def test_no_gradient_flows_into_the_base_action():
    sizes = tiny_sizes(architecture="mlp")
    mlp = build_heads(sizes, 1.0, seed=0).residuals
    torch.nn.init.normal_(mlp.out["vector"].weight)
    features, state, base = inputs(sizes)
    mlp(features, pool, state, base.requires_grad_(True)).vector.sum().backward()
    assert base.grad is None and mlp.trunk[0].weight.grad.any()


def test_building_it_is_seeded():
    sizes = tiny_sizes(architecture="mlp")
    one, same, other = (build_heads(sizes, 1.0, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
