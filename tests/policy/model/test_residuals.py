"""Residual heads: zero at the start, three last layers on one trunk, no gradient into the base; and the residual MLP,
which is the same network without factors and with as many parameters as the telepathy heads."""

import pytest
import torch

from sigma.parameters.schema import read_yaml
from sigma.policy.model.heads import MLPHeads, TelepathyHeads, parameter_count
from sigma.policy.model.residuals import ResidualHeads, matching_width
from sigma.shared.errors import SigmaError
from sigma.shared.spans import SPANS, span_steps
from tests.worlds import ROOT, tiny_sizes

BATCH, TOKENS = 4, 7


def pool(features):
    """Four pooled vectors of seven tokens."""
    return torch.stack([part.mean(1) for part in features.split([2, 2, 2, 1], dim=1)], dim=1)


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(0)
    return {
        "features": [torch.randn(BATCH, TOKENS, 24, generator=draw) for _ in range(2)],
        "pool": pool,
        "factors": torch.randn(BATCH, 3, 4, generator=draw),
        "state": torch.randn(BATCH, 6, generator=draw),
        "base_action": torch.randn(BATCH, 8, 6, generator=draw),
    }


def heads(trained: bool = True, read_factors: bool = True, **changes) -> ResidualHeads:
    torch.manual_seed(1)
    module = ResidualHeads(tiny_sizes(**changes), 20, read_factors=read_factors).eval()
    if trained:
        for layer in module.out.values():
            torch.nn.init.normal_(layer.weight, std=0.3)
            torch.nn.init.normal_(layer.bias, std=0.3)
    return module


@torch.no_grad()
def test_residuals_are_zero_at_the_start(inputs):
    residuals = heads(trained=False)(**inputs)
    shapes = {span: (BATCH, steps, 6) for span, steps in span_steps(4, 8).items()}
    assert {span: tuple(residual.shape) for span, residual in residuals.items()} == shapes
    assert not any(residual.any() for residual in residuals.values())


@torch.no_grad()
def test_every_input_matters_to_every_span(inputs):
    module = heads()
    before = module(**inputs)
    altered = {
        "first layer": {"features": [inputs["features"][0] + torch.randn(24), inputs["features"][1]]},
        "second layer": {"features": [inputs["features"][0], inputs["features"][1] + torch.randn(24)]},
        "factors": {"factors": inputs["factors"] + torch.randn(3, 4)},
        "state": {"state": inputs["state"] + 0.5},
        "base action": {"base_action": inputs["base_action"] + 0.5},
    }
    for name, change in altered.items():
        after = module(**inputs | change)
        for span in SPANS:
            assert not torch.allclose(after[span], before[span]), (name, span)


@torch.no_grad()
def test_the_direction_of_the_factors_is_read_and_not_their_norm(inputs):
    module = heads()
    before, after = module(**inputs), module(**inputs | {"factors": 3.0 * inputs["factors"] + 1.0})
    for span in SPANS:
        torch.testing.assert_close(after[span], before[span], rtol=0, atol=1e-4)


def test_no_gradient_reaches_the_base_action(inputs):
    for reads in (True, False):
        base = inputs["base_action"].clone().requires_grad_(True)
        module = heads(read_base_action=reads)
        residuals = module(**inputs | {"base_action": base})
        sum(residual.square().sum() for residual in residuals.values()).backward()
        assert base.grad is None
        assert module.out["vector"].weight.grad.any()


@torch.no_grad()
def test_a_direct_regressor_acts_the_same_whatever_the_base_does(inputs):
    module = heads(read_base_action=False)
    other = torch.randn(BATCH, 8, 6, generator=torch.Generator().manual_seed(5))
    for span in SPANS:
        actions = []
        for base in (inputs["base_action"], other):
            residual = module(**inputs | {"base_action": base})[span]
            actions.append(residual + base[:, : residual.shape[1]])
        torch.testing.assert_close(actions[0], actions[1], rtol=0, atol=1e-5)


def shipped_sizes(**changes):
    """Sizes of the shipped parameters on the embedded base."""
    values = read_yaml(ROOT / "params.yaml")
    names = ("factors", "factor_dim", "state_tokens", "factor_tokens", "head_width")
    sizes = {name: values["telepathy"][name] for name in names} | {"inner": values["telepathy"]["width"]}
    sizes |= {"read_layers": (1, 2), "trace": values["window"]["trace"]}
    sizes |= {"width": 128, "layers": 3, "horizon": 16, "chunk": 8, "history": 4}
    return tiny_sizes(**sizes | changes)


@pytest.mark.parametrize("sizes", [tiny_sizes(), shipped_sizes(), shipped_sizes(inner=256, head_width=600)])
def test_the_mlp_has_as_many_parameters_as_the_telepathy_heads(sizes):
    telepathy, mlp = TelepathyHeads(sizes, 1.0), MLPHeads(sizes)
    assert parameter_count(mlp) == pytest.approx(parameter_count(telepathy), rel=0.02)
    assert {name.partition(".")[0] for name, _ in mlp.named_parameters()} == {"residuals"}
    assert not mlp.before_pass() and not mlp.residuals.read_factors


def test_sizes_at_which_the_two_cannot_be_equal_are_refused():
    with pytest.raises(SigmaError, match="legal: sizes at which they agree within 2 %"):
        matching_width(tiny_sizes(), 10)


@torch.no_grad()
def test_the_mlp_reads_features_state_and_base_action_alone(inputs):
    module = heads(read_factors=False)
    own = {name: value for name, value in inputs.items() if name != "factors"}
    before, after = module(**own), module(**inputs | {"factors": torch.randn(BATCH, 3, 4)})
    assert torch.equal(after["trajectory"], before["trajectory"])
    for change in ({"state": own["state"] + 0.5}, {"base_action": own["base_action"] + 0.5}):
        assert not torch.allclose(module(**own | change)["trajectory"], before["trajectory"]), change
