"""Flow matching: the model that it alone trains, its noise and time, and its loss on windows.

Legend: B batch, R noise draws, Tc the base's chunk size, Ap the padded action dim.
"""

import numpy as np
import torch
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from peft import PeftModel
from torch import Tensor, nn

from sigma.parameters.training import TrainParameters
from sigma.policy.model import lora
from sigma.policy.model.decision import AdaptedPass
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.observation import Observation, Past, base_pass
from sigma.shared.seeding import Key, generator
from sigma.shared.spans import span_steps
from sigma.training.batches import WindowBatches

# Output embeddings of the two language models: checkpoints carry them, π0.5 reads neither.
_UNREAD = ".lm_head."


class FlowModel(nn.Module):
    """A π0.5 that flow matching alone trains; no heads, no telepathy.

    ``tuned`` is the policy under LoRA (language model and action expert), or the policy itself, whose weights are then
    all trained.
    """

    def __init__(self, tuned: PeftModel | PI05Policy):
        super().__init__()
        self.tuned = tuned

    @property
    def whole(self) -> bool:
        """Whether every weight is trained, those of the vision tower included."""
        return not isinstance(self.tuned, PeftModel)

    @property
    def policy(self) -> PI05Policy:
        return self.tuned if self.whole else self.tuned.get_base_model()

    def adapted_pass(self, observation: Observation, past: Past) -> AdaptedPass:
        """The policy's pass over the prefix, with what is trained of it; the past is not read."""
        return AdaptedPass(base_pass(self.policy, observation).encoded, None, None)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that flow matching trains, by name, in a stable order."""
        if not self.whole:
            return lora.named_parameters(self.tuned)
        named = sorted(self.tuned.named_parameters())
        return {name: parameter for name, parameter in named if _UNREAD not in f".{name}"}


def draw_noise_and_time(config: PI05Config, batch: int, draws: int, *address: Key) -> tuple[Tensor, Tensor]:
    """Standard normal noise (B, R, Tc, Ap) and π0.5's Beta-distributed times (B, R), functions of the address alone.

    The law of the times is the one of LeRobot's configuration.
    """
    source = generator(*address)
    shape = (batch, draws, config.chunk_size, config.max_action_dim)
    noise = source.standard_normal(shape, dtype="float32")
    time = source.beta(config.time_sampling_beta_alpha, config.time_sampling_beta_beta, size=(batch, draws))
    time = time * config.time_sampling_scale + config.time_sampling_offset
    return torch.from_numpy(noise), torch.from_numpy(time.astype("float32"))


def step_noise(
    config: PI05Config, parameters: TrainParameters, step: int, part: slice, total: int
) -> tuple[Tensor, Tensor]:
    """Noise and time of one micro-batch: a slice of the whole step's, so that how it is cut cannot change the draws."""
    noise, time = draw_noise_and_time(config, total, parameters.flow_draws, parameters.seed, "flow", step)
    return noise[part], time[part]


def flow_losses(
    policy: PI05Policy, batches: WindowBatches, passed: AdaptedPass, windows: np.ndarray, noise: Tensor, time: Tensor
) -> dict[str, Tensor]:
    """π0.5's flow-matching loss of each window and draw (B, R) on every span, by span.

    Padded steps and joints excluded by name are masked. The trajectory is the whole chunk that the base predicts, so
    that its loss is π0.5's own.

    Args:
        passed: the prefix of these windows as the model reads it.
        noise: (B, R, Tc, Ap), R draws that share one prefix.
        time: (B, R).
    """
    device = batches.builder.device
    raw = batches.shards.window_action[windows]
    actions = torch.from_numpy(batches.builder.normalisation.action.normalise(raw)).to(device)
    noise, time = noise.to(device), time.to(device)
    losses = prefix.flow_matching_loss(policy, passed.encoded, actions, noise, time, passed.steering)
    valid = torch.from_numpy(batches.shards.window_valid[windows]).to(device)[:, None, :, None]
    weight = (valid & batches.scored_joints()).expand_as(losses).to(losses.dtype)
    weighted, steps = losses * weight, span_steps(batches.shards.meta["chunk"], losses.shape[2])
    return {
        span: weighted[:, :, :count].sum((2, 3)) / weight[:, :, :count].sum((2, 3)).clamp_min(1)
        for span, count in steps.items()
    }
