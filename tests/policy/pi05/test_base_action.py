"""The base's action is a function of the decision, its noise of the decision's address."""

import numpy as np
import pytest
import torch

from sigma.policy.pi05.base_action import deterministic_action, sample_noise
from sigma.policy.pi05.prefix import integrate


@pytest.fixture(scope="module")
def policy(prepared):
    return prepared.base().policy


def test_noise_follows_seed_address_and_sample_and_nothing_else(policy):
    addresses = [(3, 0), (3, 8), (4, 0), ("live", 3, 0)]
    noise = sample_noise(policy, 2, 0, addresses)
    assert noise.shape == (4, 2, 16, 6) and noise.dtype == torch.float32
    flat = noise.flatten(0, 1)
    assert all(not torch.equal(flat[one], flat[two]) for one in range(8) for two in range(one))
    backwards = sample_noise(policy, 1, 0, addresses[::-1])
    assert torch.equal(backwards.flip(0)[:, 0], noise[:, 0])
    assert not torch.equal(sample_noise(policy, 2, 1, addresses), noise)


@torch.no_grad()
def test_each_kind_is_what_its_name_says(prepared):
    from sigma.policy.pi05.observation import base_pass

    material = prepared.material()
    policy = material.base.policy
    observation, _ = material.observation(np.arange(4))
    encoded = base_pass(policy, observation).encoded
    addresses = [("window", row) for row in range(4)]
    options = {"samples": 3, "seed": 0, "addresses": addresses}
    found = {
        kind: deterministic_action(kind, policy, encoded, 5, **options) for kind in ("zero_noise", "mean", "sample")
    }
    samples = integrate(policy, encoded, sample_noise(policy, 3, 0, addresses), 5)
    torch.testing.assert_close(found["mean"], samples.mean(dim=1))
    torch.testing.assert_close(found["sample"], samples[:, 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(found["zero_noise"], integrate(policy, encoded, torch.zeros(4, 1, 16, 6), 5)[:, 0])
    assert not torch.allclose(found["zero_noise"], found["mean"], atol=1e-2)
