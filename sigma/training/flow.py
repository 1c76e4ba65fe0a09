"""Noise and time of flow matching, addressed by what they are for, so that a resumed run draws the same."""

import torch
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from torch import Tensor

from sigma.shared.seeding import Key, generator


def draw_noise_and_time(config: PI05Config, batch: int, draws: int, *address: Key) -> tuple[Tensor, Tensor]:
    """Standard normal noise ``[B, K, Tc, Ap]`` and π0.5's Beta-distributed times ``[B, K]`` for this address.

    B batch, K draws, Tc the chunk size, Ap the padded action dim; the time law is the one of LeRobot's configuration.
    """
    source = generator(*address)
    shape = (batch, draws, config.chunk_size, config.max_action_dim)
    noise = source.standard_normal(shape, dtype="float32")
    time = source.beta(config.time_sampling_beta_alpha, config.time_sampling_beta_beta, size=(batch, draws))
    time = time * config.time_sampling_scale + config.time_sampling_offset
    return torch.from_numpy(noise), torch.from_numpy(time.astype("float32"))
