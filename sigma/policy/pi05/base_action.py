"""The base's action at a decision: deterministic for training and control, sampled for comparison.

A residual head that corrects a random sample passes most of its noise on to the robot. So the action that Sigma
corrects is a fixed function of the observation (own design). Noise is drawn by (seed, episode, step, sample), so that
neither batching nor order changes it.

Legend: B batch, S samples, Tc the base's chunk size, A action dim, Ap the policy's padded action dim.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from sigma.policy.pi05 import prefix
from sigma.shared.seeding import Key, normal

Kind = Literal["zero_noise", "mean", "sample"]


def sample_noise(policy: PI05Policy, samples: int, seed: int, addresses: Sequence[tuple[Key, ...]]) -> Tensor:
    """(B, S, Tc, Ap) standard normal noise, one address a decision."""
    shape = (policy.config.chunk_size, policy.config.max_action_dim)
    draws = [[normal(shape, seed, "base", *address, sample) for sample in range(samples)] for address in addresses]
    return torch.from_numpy(np.asarray(draws, dtype=np.float32).reshape(len(addresses), samples, *shape))


def zero_noise_action(policy: PI05Policy, encoded: prefix.Encoded, num_steps: int) -> Tensor:
    """(B, Tc, A): integration from zero noise, the mode of the noise's density."""
    shape = (len(encoded.pad_mask), 1, policy.config.chunk_size, policy.config.max_action_dim)
    return prefix.integrate(policy, encoded, torch.zeros(shape, device=encoded.pad_mask.device), num_steps)[:, 0]


def deterministic_action(
    kind: Kind,
    policy: PI05Policy,
    encoded: prefix.Encoded,
    num_steps: int,
    *,
    samples: int,
    seed: int,
    addresses: Sequence[tuple[Key, ...]],
) -> Tensor:
    """(B, Tc, A) of the ``kind`` that ``base.action`` names: integrated from zero noise, the mean of S seeded samples,
    or the first of them."""
    if kind == "zero_noise":
        return zero_noise_action(policy, encoded, num_steps)
    count = samples if kind == "mean" else 1
    noise = sample_noise(policy, count, seed, addresses).to(encoded.pad_mask.device)
    return prefix.integrate(policy, encoded, noise, num_steps).mean(dim=1)
