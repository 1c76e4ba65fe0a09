"""The base's action at a decision: deterministic for training and control, sampled for comparison.

Sigma's residual is the difference between its action and the base's, both from the same noise: a difference of two
random samples would be mostly noise. So both are fixed functions of what was observed (own design). Noise is drawn by
(seed, episode, step, sample), so that neither batching nor order changes it.

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


def noise_for(
    kind: Kind, policy: PI05Policy, *, samples: int, seed: int, addresses: Sequence[tuple[Key, ...]]
) -> Tensor:
    """(B, K, Tc, Ap): what an action of this ``kind`` is integrated from, where it is the mean over K draws."""
    if kind == "zero_noise":  # the mode of the noise's density
        return torch.zeros(len(addresses), 1, policy.config.chunk_size, policy.config.max_action_dim)
    return sample_noise(policy, samples if kind == "mean" else 1, seed, addresses)


def deterministic_action(
    kind: Kind,
    policy: PI05Policy,
    encoded: prefix.Encoded,
    num_steps: int,
    steering: prefix.Steering | None = None,
    *,
    samples: int,
    seed: int,
    addresses: Sequence[tuple[Key, ...]],
) -> Tensor:
    """(B, Tc, A) of the ``kind`` that ``base.action`` names: integrated from zero noise, the mean of S seeded samples,
    or the first of them."""
    noise = noise_for(kind, policy, samples=samples, seed=seed, addresses=addresses).to(encoded.pad_mask.device)
    actions = prefix.integrate(policy, encoded, noise, num_steps, steering)
    return actions[:, 0] if actions.shape[1] == 1 else actions.mean(dim=1)
