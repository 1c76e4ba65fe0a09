"""Residual heads: zero at the start, three branches that do not look at each other, no gradient into the base."""

import pytest
import torch

from sigma.policy.residuals import SCALES, ResidualHeads, Residuals, executed_plan
from tests.worlds import tiny_sizes

BATCH, TOKENS = 4, 9


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(0)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    mask[:, 6:8] = False
    return {
        "features": [torch.randn(BATCH, TOKENS, 24, generator=draw) for _ in range(2)],
        "token_mask": mask,
        "factors": torch.randn(BATCH, 3, 4, generator=draw),
        "state": torch.randn(BATCH, 6, generator=draw),
        "base_action": torch.randn(BATCH, 8, 6, generator=draw),
    }


def heads(trained: bool = True, **changes) -> ResidualHeads:
    torch.manual_seed(1)
    module = ResidualHeads(tiny_sizes(**changes)).eval()
    if trained:
        for layer in module.out.values():
            torch.nn.init.normal_(layer.weight, std=0.3)
            torch.nn.init.normal_(layer.bias, std=0.3)
    return module


@torch.no_grad()
def test_residuals_are_zero_at_the_start(inputs):
    residuals = heads(trained=False)(**inputs)
    shapes = {"vector": (BATCH, 1, 6), "chunk": (BATCH, 4, 6), "trajectory": (BATCH, 8, 6)}
    assert {name: tuple(value.shape) for name, value in vars(residuals).items()} == shapes
    assert not any(getattr(residuals, scale).any() for scale in SCALES)


@torch.no_grad()
def test_every_input_matters_to_every_branch(inputs):
    module = heads()
    before = module(**inputs)
    altered = {
        "first layer": {"features": [inputs["features"][0] + 1 * torch.randn(24), inputs["features"][1]]},
        "second layer": {"features": [inputs["features"][0], inputs["features"][1] + torch.randn(24)]},
        "factors": {"factors": inputs["factors"] + 0.5},
        "state": {"state": inputs["state"] + 0.5},
        "base action": {"base_action": inputs["base_action"] + 0.5},
    }
    for name, change in altered.items():
        after = module(**inputs | change)
        for scale in SCALES:
            assert not torch.allclose(getattr(after, scale), getattr(before, scale)), (name, scale)


@torch.no_grad()
def test_factors_reach_the_heads_as_tokens_and_in_the_queries(inputs):
    for silenced in ("factors_in", "factor_tokens"):
        module = heads()
        torch.nn.init.zeros_(getattr(module, silenced).weight)
        before, after = module(**inputs), module(**inputs | {"factors": inputs["factors"] + 0.5})
        assert not torch.allclose(before.trajectory, after.trajectory), silenced


@torch.no_grad()
def test_padded_tokens_do_not_matter(inputs):
    module = heads()
    before = module(**inputs)
    features = [layer.clone() for layer in inputs["features"]]
    for layer in features:
        layer[~inputs["token_mask"]] = 100.0
    after = module(**inputs | {"features": features})
    for scale in SCALES:
        assert torch.equal(getattr(after, scale), getattr(before, scale)), scale


@torch.no_grad()
def test_a_branch_reads_the_base_action_of_its_own_span_alone(inputs):
    module = heads()
    before = module(**inputs)
    for first, untouched in ((1, ["vector"]), (4, ["vector", "chunk"])):
        base = inputs["base_action"].clone()
        base[:, first:] += 1.0
        after = module(**inputs | {"base_action": base})
        for scale in SCALES:
            assert torch.equal(getattr(after, scale), getattr(before, scale)) == (scale in untouched), (first, scale)


def test_no_gradient_reaches_the_base_action(inputs):
    for reads in (True, False):
        base = inputs["base_action"].clone().requires_grad_(True)
        module = heads(read_base_action=reads)
        residuals = module(**inputs | {"base_action": base})
        sum(getattr(residuals, scale).square().sum() for scale in SCALES).backward()
        assert base.grad is None
        assert module.out["vector"].weight.grad.any()


@torch.no_grad()
def test_a_direct_regressor_acts_the_same_whatever_the_base_does(inputs):
    module = heads(read_base_action=False)
    other = torch.randn(BATCH, 8, 6, generator=torch.Generator().manual_seed(5))
    for scale in SCALES:
        actions = []
        for base in (inputs["base_action"], other):
            residual = getattr(module(**inputs | {"base_action": base}), scale)
            actions.append(residual + base[:, : residual.shape[1]])
        torch.testing.assert_close(actions[0], actions[1], rtol=0, atol=1e-5)


def test_the_plan_takes_each_step_from_the_finest_branch_that_covers_it():
    residuals = Residuals(torch.full((2, 1, 6), 1.0), torch.full((2, 4, 6), 2.0), torch.full((2, 8, 6), 3.0))
    assert executed_plan(residuals)[1, :, 0].tolist() == [1, 2, 2, 2, 3, 3, 3, 3]
    whole = Residuals(torch.ones(2, 1, 6), torch.full((2, 8, 6), 2.0), torch.full((2, 8, 6), 3.0))
    assert executed_plan(whole)[0, :, 0].tolist() == [1, 2, 2, 2, 2, 2, 2, 2]
