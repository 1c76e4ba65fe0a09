"""The folder of a trained Sigma: its ``config.json``, and how LoRA and heads are put on the base again."""

import hashlib
from pathlib import Path
from typing import Any

from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import TelepathyHeads, load_heads
from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.pi05.base import Base
from sigma.policy.pi05.description import ACTION
from sigma.policy.pi05.prompt import Prompter, read_tokenizer
from sigma.policy.pi05.weights import tensor_digest
from sigma.shared import records
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json

CONFIG = "config.json"
FORMAT_VERSION = 3
_FORM = {
    "base": records.ORIGIN,
    **dict.fromkeys(("base_action", "weights_digest", "weights_dtype"), str),
    "sizes": dict,
    **dict.fromkeys(("memory_stride", "samples", "seed", "num_steps", "prompt_length", "selected_step"), int),
    **dict.fromkeys(("token_rms", "fps"), records.NUMBER),
    "normalisation": records.REPLAY["normalisation"],
    "limits": {key: [records.NUMBER] for key in ("min", "max", "step")},
    **{key: [str] for key in ("cameras", "joint_names", "exclude_joints")},
    "dataset": records.ORIGIN,
}


def base_digest(policy: PI05Policy) -> str:
    """One digest over every tensor of the base as loaded; LoRA beside them does not change it."""
    # LoRA wraps a module of the base, which moves the module's own tensors to `base_layer`.
    tensors = {name.replace(".base_layer.", "."): tensor for name, tensor in policy.state_dict().items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(item for item in tensors.items() if ".lora_" not in item[0]):
        digest.update(f"{name}:{tensor_digest(tensor)}".encode())
    return digest.hexdigest()


def weights_dtype(policy: PI05Policy) -> str:
    """``float32`` or ``bfloat16``: what the language model computes in (LeRobot keeps some tensors in float32)."""
    layer = policy.model.paligemma_with_expert.paligemma.model.language_model.layers[0].self_attn.q_proj
    return str(layer.weight.dtype).removeprefix("torch.")


def model_config(
    *,
    base: Base,
    weights_digest: str,
    sizes: TelepathySizes,
    features_meta: dict[str, Any],
    shards_meta: dict[str, Any],
    selected_step: int,
) -> dict[str, Any]:
    """Everything that running the model needs besides the weights, JSON-ready."""
    from_features = ("token_rms", "normalisation", "samples", "seed", "num_steps")
    from_shards = ("memory_stride", "cameras", "joint_names", "exclude_joints", "dataset", "fps")
    return {
        "format_version": FORMAT_VERSION,
        "base": {key: value for key, value in base.reference.items() if key != "tensors"},
        "sizes": sizes.to_dict(),
        **{key: features_meta[key] for key in from_features},
        **{key: shards_meta[key] for key in from_shards},
        "limits": {key: shards_meta["statistics"][ACTION][key] for key in ("min", "max", "step")},
        "base_action": features_meta["action"],
        "prompt_length": base.prompter.max_length,
        "selected_step": selected_step,
        "weights_digest": weights_digest,
        "weights_dtype": weights_dtype(base.policy),
    }


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder; raises :class:`SigmaError` naming a wrong version, or a key that is
    missing or of another type."""
    path = Path(folder) / CONFIG
    config = read_json(path)
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        raise SigmaError(f"{path}: format_version: found {version!r}; legal: {FORMAT_VERSION}")
    records.check_record(config, _FORM, f"{path}: ", "run finetune again")
    return config


def load_prompter(folder: Path, config: dict[str, Any]) -> Prompter:
    """The tokenizer that was saved with the model."""
    return Prompter(read_tokenizer(Path(folder) / "tokenizer"), config["prompt_length"])


def load_model(policy: PI05Policy, folder: Path, config: dict[str, Any], heads_file: Path) -> SigmaModel:
    """Put LoRA and heads on a base policy; everything is checked strictly.

    Raises :class:`SigmaError` where the base's tensors are not those that the model was trained on, or where a tensor
    of the adapter or of the heads is missing, extra, of another shape or not finite.
    """
    if weights_dtype(policy) != config["weights_dtype"]:
        raise SigmaError(
            f"{Path(folder) / CONFIG}: weights_dtype: Sigma was trained on a base in {config['weights_dtype']}, found "
            f"{weights_dtype(policy)}; load the base in {config['weights_dtype']}"
        )
    if base_digest(policy) != config["weights_digest"]:
        raise SigmaError(f"{Path(folder) / CONFIG}: the base policy's weights are not those that Sigma was trained on")
    sizes = TelepathySizes.from_dict(config["sizes"], str(Path(folder) / CONFIG))
    heads = TelepathyHeads(sizes, config["token_rms"])
    load_heads(heads, heads_file)
    adapted = lora.load(policy, folder)
    device = next(policy.parameters()).device
    return SigmaModel(adapted, heads.to(device)).requires_grad_(False).eval()
