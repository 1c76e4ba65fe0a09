"""Checkpointed layers give the loss and the gradients of plain ones to the bit, and really compute again."""

import pytest
import torch

from sigma.policy.model import lora
from sigma.policy.pi05.prefix import Steering, assemble, encode, flow_matching_loss, integrate
from sigma.policy.pi05.recompute import recompute_layers
from sigma.policy.pi05.weights import empty_policy
from tests.bases import ACTION_DIM, SIZES, tiny_policy

BATCH, DRAWS, VIEWS, TOKENS, LENGTH = 3, 2, 2, 4, 6
CHUNK, WIDTH, EXPERT = SIZES["chunk_size"], SIZES["language_width"], SIZES["expert_width"]


def step(*, checkpointed, dropout):
    """Loss of a flow-matching step with steering, its gradients by name, and how often an MLP of each tower ran."""
    policy = tiny_policy().requires_grad_(False)
    lora.attach(policy, rank=2, alpha=4.0, dropout=dropout, seed=0)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora.lora_parameters(policy):
            parameter.normal_(std=0.3, generator=draw)
    if checkpointed:
        recompute_layers(policy)
    towers = policy.model.paligemma_with_expert
    runs = []
    for model in (towers.paligemma.model.language_model, towers.gemma_expert.model):
        model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))

    def drawn(*shape, gradient=False):
        return torch.randn(*shape, generator=draw).requires_grad_(gradient)

    vision = drawn(BATCH, VIEWS, TOKENS, WIDTH, gradient=True)
    steering = Steering(drawn(BATCH, EXPERT, gradient=True), drawn(BATCH, CHUNK, EXPERT, gradient=True))
    mask = torch.arange(LENGTH)[None] < torch.tensor([[4], [5], [6]])
    actions, noise = drawn(BATCH, CHUNK, ACTION_DIM), drawn(BATCH, DRAWS, CHUNK, ACTION_DIM)
    prefix = assemble(vision, drawn(BATCH, LENGTH, WIDTH), mask)
    time = torch.rand(BATCH, DRAWS, generator=draw) * 0.9 + 0.05
    policy.train()
    torch.manual_seed(5)  # of the dropout
    loss = flow_matching_loss(policy, encode(policy, prefix), actions, noise, time, steering).mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in lora.named_parameters(policy).items()}
    gradients |= {"vision": vision.grad, "condition": steering.condition.grad, "tokens": steering.tokens.grad}
    return loss, gradients, len(runs)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_and_gradients_are_those_of_plain_layers(dropout):
    loss, gradients, runs = step(checkpointed=True, dropout=dropout)
    expected_loss, expected, plain_runs = step(checkpointed=False, dropout=dropout)
    assert torch.equal(loss, expected_loss)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        # A gradient that no path reaches (the last layer's own queries) is none in both.
        same = gradients[name] is None if gradient is None else torch.equal(gradients[name], gradient)
        assert same, name
    assert runs == 2 * plain_runs


@torch.no_grad()
def test_a_decision_is_that_of_plain_layers():
    policy = tiny_policy()
    noise = torch.randn(1, 1, CHUNK, ACTION_DIM, generator=torch.Generator().manual_seed(0))
    prefix = assemble(torch.ones(1, VIEWS, TOKENS, WIDTH), torch.ones(1, LENGTH, WIDTH), torch.ones(1, LENGTH).bool())
    expected = integrate(policy, encode(policy, prefix), noise, 3)
    recompute_layers(policy)
    for training in (False, True):
        assert torch.equal(integrate(policy.train(training), encode(policy, prefix), noise, 3), expected)


def test_a_base_whose_configuration_asks_for_lerobots_checkpointing_still_gives_a_cache():
    config = tiny_policy().config
    config.gradient_checkpointing = True
    policy = empty_policy(config, "float32").train()
    with torch.device("meta"):
        mask = torch.ones(1, LENGTH, dtype=torch.bool)
        prefix = assemble(torch.ones(1, VIEWS, TOKENS, WIDTH), torch.ones(1, LENGTH, WIDTH), mask)
        assert len(encode(policy, prefix).cache.layers) == SIZES["depth"]
