"""A small π0.5: LeRobot's own classes, built with the sizes of :class:`PI05SmallConfig`.

Only the constructors differ, because LeRobot's fix the sizes to ``gemma_2b`` and ``gemma_300m`` and the vocabulary to
257,152. Every computation is inherited: SigLIP tower, PaliGemma-Gemma language model, adaRMS action expert, flow
matching.
"""

import math

import numpy as np
import torch
from lerobot.policies.pi05.modeling_pi05 import PaliGemmaWithExpertModel, PI05Policy, PI05Pytorch
from lerobot.policies.pi_gemma import PaliGemmaForConditionalGenerationWithPiGemma, PiGemmaForCausalLM, PiGemmaRMSNorm
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import nn
from transformers import GemmaConfig, PaliGemmaConfig, SiglipVisionConfig

from sigma.policy.pi05.small.configuration_pi05_small import ATTENTION_HEADS, PI05SmallConfig
from sigma.shared.seeding import generator


# Configurations are made from dictionaries: adaRMS is LeRobot's own addition to Gemma and no field of its class.
def _gemma_config(config: PI05SmallConfig, width: int, mlp: int, *, adarms: bool) -> GemmaConfig:
    """A Gemma of ``width`` and feed-forward width ``mlp``; language model and expert share all other sizes."""
    return GemmaConfig.from_dict(
        {
            "hidden_size": width,
            "intermediate_size": mlp,
            "use_adarms": adarms,
            "adarms_cond_dim": width if adarms else None,
            "head_dim": config.head_dim,
            "num_attention_heads": ATTENTION_HEADS,
            "num_key_value_heads": 1,
            "num_hidden_layers": config.depth,
            "vocab_size": config.vocabulary_size,
            "hidden_activation": "gelu_pytorch_tanh",
            "dtype": "float32",
        }
    )


def _paligemma_config(config: PI05SmallConfig) -> PaliGemmaConfig:
    """The SigLIP tower and the language model."""
    vision = {
        "hidden_size": config.vision_width,
        "intermediate_size": config.vision_mlp,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads,
        "image_size": config.image_resolution[0],
        "patch_size": config.patch_size,
        "vision_use_head": False,
        "dtype": "float32",
    }
    return PaliGemmaConfig.from_dict(
        {
            "text_config": _gemma_config(config, config.language_width, config.language_mlp, adarms=False),
            "vision_config": SiglipVisionConfig.from_dict(vision),
            "projection_dim": config.language_width,
            "hidden_size": config.language_width,
            "vocab_size": config.vocabulary_size,
            # PaliGemma's own image placeholder is never used: π0.5 joins image and text embeddings itself.
            "image_token_index": config.vocabulary_size,
        }
    )


class _SmallTowers(PaliGemmaWithExpertModel):
    """The language model with its vision tower, and the action expert, in reduced sizes."""

    def __init__(self, config: PI05SmallConfig):
        nn.Module.__init__(self)
        self.freeze_vision_encoder = config.freeze_vision_encoder
        self.train_expert_only = config.train_expert_only
        self.paligemma = PaliGemmaForConditionalGenerationWithPiGemma(config=_paligemma_config(config))
        expert = _gemma_config(config, config.expert_width, config.expert_mlp, adarms=True)
        self.gemma_expert = PiGemmaForCausalLM(config=expert)
        self.gemma_expert.model.embed_tokens = None
        self.to_bfloat16_for_selected_params(config.dtype)
        self._set_requires_grad()


class _SmallCore(PI05Pytorch):
    """Flow matching over the small towers."""

    def __init__(self, config: PI05SmallConfig, rtc_processor: RTCProcessor | None = None):
        nn.Module.__init__(self)
        self.config = config
        self.rtc_processor = rtc_processor
        self.paligemma_with_expert = _SmallTowers(config)
        self.action_in_proj = nn.Linear(config.max_action_dim, config.expert_width)
        self.action_out_proj = nn.Linear(config.expert_width, config.max_action_dim)
        self.time_mlp_in = nn.Linear(config.expert_width, config.expert_width)
        self.time_mlp_out = nn.Linear(config.expert_width, config.expert_width)
        self.gradient_checkpointing_enabled = False
        if config.compile_model:
            self.sample_actions = torch.compile(super().sample_actions, mode=config.compile_mode)
            self.forward = torch.compile(super().forward, mode=config.compile_mode)


class PI05SmallPolicy(PI05Policy):
    """LeRobot's π0.5 policy in reduced sizes; `forward`, `predict_action_chunk`, `save_pretrained` are inherited."""

    config_class = PI05SmallConfig
    name = "pi05_small"

    def __init__(self, config: PI05SmallConfig, **kwargs):
        PreTrainedPolicy.__init__(self, config)
        config.validate_features()
        self.config = config
        self.init_rtc_processor()
        self.model = _SmallCore(config, rtc_processor=self.rtc_processor)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.model.to(config.device)
        self.reset()


@torch.no_grad()
def fan_in_initialise(policy: PI05SmallPolicy, seed: int) -> None:
    """Weights of variance 1 / fan-in, drawn by tensor name (own design; transformers' 0.02 suits wide towers only).

    Projections back into a residual stream are shrunk by √(2·depth). The adaRMS gates start open at 1: a policy this
    shallow needs no closed start, and its attention learns from the first step.
    """
    depth = policy.config.depth
    for name, tensor in policy.named_parameters():
        noise = torch.from_numpy(generator(seed, "weights", name).standard_normal(tensor.shape, dtype=np.float32))
        if "layernorm" in name or "layer_norm" in name or ".norm." in name:
            continue  # scales and shifts: the identity, set below for adaRMS
        if tensor.ndim == 1:
            tensor.zero_()
        elif "position_embedding" in name:
            tensor.copy_(0.3 * noise)
        elif "embed_tokens" in name:
            tensor.copy_(noise / math.sqrt(tensor.shape[1]))  # the model multiplies by √width
        else:
            residual = (
                any(part in name for part in ("o_proj", "down_proj", "out_proj", "fc2")) and "action_" not in name
            )
            scale = 1 / math.sqrt(2 * depth) if residual else 1.0
            tensor.copy_(noise * scale / math.sqrt(tensor[0].numel()))
    for module in policy.modules():
        if isinstance(module, PiGemmaRMSNorm) and module.dense is not None:
            # adaRMS reads scale, shift and gate from one linear layer of the time embedding; the gate comes last.
            module.dense.weight.zero_()
            module.dense.bias.zero_()
            module.dense.bias[-module.dim :] = 1.0
