"""Weights of a π0.5 checkpoint: digests, the known renamings, and a strict load that never leaves a random tensor.

LeRobot's ``PI05Policy.from_pretrained`` prints a warning and keeps random weights when a load fails, and ignores the
revision for the weights. This loader takes names and shapes from the class itself and refuses everything else.
"""

import copy
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.models.gemma.modeling_gemma import GemmaRotaryEmbedding, GemmaTextScaledWordEmbedding
from transformers.models.siglip.modeling_siglip import SiglipVisionEmbeddings

from sigma.shared.errors import SigmaError

WEIGHTS = "model.safetensors"

# Names in published checkpoints that differ from the module's, as LeRobot's `_fix_pytorch_state_dict_keys` knows them.
# π0 names the time MLP otherwise.
_TIME_MLP = re.compile(r"^model\.action_time_mlp_(in|out)\.")
# Without use in π0.5: π0's projection of the state, which the prompt holds here, and plain norms of the expert, which
# adaRMS replaces.
_UNUSED = re.compile(
    r"^model\.state_proj\.|"
    r"^model\.paligemma_with_expert\.gemma_expert\.model\.(layers\.\d+\.(input|post_attention)_layernorm|norm)\.weight$"
)
# Checkpoints that tie input and output embeddings store the output's alone.
_INPUT_EMBEDDINGS = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
_OUTPUT_EMBEDDINGS = "model.paligemma_with_expert.paligemma.lm_head.weight"


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 in hex over element type, shape and bytes; for a sharded tensor every process must call this at once."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    data = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{data.dtype}{tuple(data.shape)}".encode())
    digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of ``folder/model.safetensors`` as stored, one at a time; raises :class:`SigmaError`."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise SigmaError(f"{file}: not found; a base is a LeRobot folder with config.json and one {WEIGHTS}")
    try:
        with safe_open(file, framework="pt") as reader:
            for name in sorted(reader.keys()):
                yield name, reader.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise SigmaError(f"{file}: not readable as safetensors ({' '.join(str(error).split())})") from None


def module_name(stored: str) -> str | None:
    """The name that a stored tensor has in :class:`PI05Policy`; ``None`` where π0.5 has no use for it."""
    name = stored if stored.startswith("model.") else f"model.{stored}"
    return None if _UNUSED.search(name) else _TIME_MLP.sub(r"model.time_mlp_\1.", name)


def empty_policy(config: PreTrainedConfig, dtype: str) -> PI05Policy:
    """The policy's class on the meta device: names, shapes and element types without memory.

    LeRobot's gradient checkpointing is off, whatever the configuration says: it drops the cache that is read here.
    """
    config = copy.deepcopy(config)
    config.device, config.dtype, config.compile_model, config.gradient_checkpointing = "meta", dtype, False, False
    with torch.device("meta"):
        return get_policy_class(config.type)(config)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_strictly(config: PreTrainedConfig, folder: Path, digests: dict[str, str], *, dtype: str) -> PI05Policy:
    """The policy with the weights of ``folder`` on the CPU, in evaluation mode and without gradients.

    ``digests`` are those of every stored tensor, by stored name. ``dtype`` is ``float32`` or ``bfloat16`` (LeRobot's
    selection of tensors stays float32). Raises :class:`SigmaError` that names a missing, extra, mis-shaped, altered or
    non-finite tensor.
    """
    file = folder / WEIGHTS
    policy = empty_policy(config, dtype)
    expected = policy.state_dict()
    state: dict[str, Tensor] = {}
    seen, extra = set(), []
    for stored, tensor in stored_tensors(folder):
        seen.add(stored)
        if digests.get(stored) != tensor_digest(tensor):
            raise SigmaError(f"{file}: tensor {stored} is not the one that was recorded; fetch the base again")
        name = module_name(stored)
        if name is None:
            continue
        if name not in expected:
            extra.append(stored)
            continue
        if tensor.shape != expected[name].shape:
            actual, legal = tuple(tensor.shape), tuple(expected[name].shape)
            raise SigmaError(f"{file}: tensor {stored} has shape {actual}; config.json asks for {legal}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SigmaError(f"{file}: tensor {stored} holds values that are not finite")
        state[name] = tensor.to(expected[name].dtype, copy=True)
    if _INPUT_EMBEDDINGS not in state and _OUTPUT_EMBEDDINGS in state:
        state[_INPUT_EMBEDDINGS] = state[_OUTPUT_EMBEDDINGS].clone()
    missing = sorted(set(expected) - set(state)) + sorted(set(digests) - seen)
    if missing:
        raise SigmaError(f"{file}: {len(missing)} tensors are missing: {_some(missing)}")
    if extra:
        raise SigmaError(f"{file}: {len(extra)} tensors have no place in {config.type}: {_some(extra)}")
    policy.load_state_dict(state, strict=True, assign=True)
    _fill_buffers(policy)
    policy.config.device = "cpu"
    return policy.eval().requires_grad_(False)


def fresh_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of a module that no checkpoint holds, made anew."""
    if isinstance(module, GemmaRotaryEmbedding):
        return dict(GemmaRotaryEmbedding(module.config).named_buffers())
    if isinstance(module, GemmaTextScaledWordEmbedding):
        return {"embed_scale": torch.tensor(module.scalar_embed_scale)}
    if isinstance(module, SiglipVisionEmbeddings):
        return {"position_ids": torch.arange(module.num_positions)[None]}
    raise RuntimeError(f"no rule to make the buffers of a {type(module).__name__}")


def _fill_buffers(policy: nn.Module) -> None:
    """Give every buffer that is still on the meta device its value."""
    for module in policy.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                module.register_buffer(name, fresh_buffers(module)[name].to(buffer.dtype), persistent=False)
