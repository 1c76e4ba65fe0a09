"""LoRA on π0.5's attention projections, through PEFT.

The targets are regular expressions over full module names: a bare ``q_proj`` would also adapt the SigLIP tower, and
LeRobot's own default for π0.5 adapts only the action expert's q and v.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from sigma.errors import SigmaError
from sigma.policy.tensors import check_tensors, read_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOWERS = {"language": r"paligemma\.model\.language_model", "expert": r"gemma_expert\.model"}
Tower = Literal["language", "expert"]
WEIGHTS, SOURCE_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"


def target_pattern(towers: "Sequence[Tower]", projections: "Sequence[str]", from_layer: int = 0) -> str:
    """The regular expression over module names that PEFT matches in full; the language model's from a layer on."""
    names = "|".join(_TOWERS[tower] for tower in towers)
    skipped = "|".join(str(layer) for layer in range(from_layer))
    before = rf"(?!.*{_TOWERS['language']}\.layers\.({skipped})\.)" if skipped else ""
    return rf"{before}.*\.({names})\.layers\.\d+\.self_attn\.({'|'.join(projections)})_proj"


def _refuse_second(policy: nn.Module) -> None:
    if lora_layers(policy):
        raise SigmaError("the base policy carries LoRA already; load the base again")


def attach(
    policy: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    towers: "Sequence[Tower]" = ("language",),
    projections: "Sequence[str]" = ("q", "k", "v", "o"),
    from_layer: int = 0,
    seed: int,
) -> PeftModel:
    """Insert LoRA into the policy in place, into the language model from ``from_layer`` on; B starts at zero, so that
    outputs are unchanged to the bit."""
    _refuse_second(policy)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=target_pattern(towers, projections, from_layer),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(policy, config)


def save(model: PeftModel, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into ``folder``."""
    model.save_pretrained(folder, safe_serialization=True)
    (Path(folder) / "README.md").unlink(missing_ok=True)


def weights_file(folder: Path) -> Path:
    """``adapter_model.safetensors``, or the source's ``adapter_model.bin`` where only that is there."""
    file = Path(folder) / WEIGHTS
    source = Path(folder) / SOURCE_WEIGHTS
    return source if source.is_file() and not file.is_file() else file


def _read(folder: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    from peft import PeftConfig

    weights, config_file = weights_file(folder), Path(folder) / "adapter_config.json"
    for file in (config_file, weights):
        if not file.is_file():
            raise SigmaError(f"{file}: not found; run `dvc repro` or give the folder that finetune wrote")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT lets through whatever a wrong key or value raises
        raise SigmaError(f"{config_file}: not readable ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(config, LoraConfig):
        raise SigmaError(f"{config_file}: peft_type: found {config.peft_type}; legal: LORA")
    return config, read_tensors(weights)


def load(policy: nn.Module, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Attach a saved adapter strictly: every LoRA tensor of the model must be in the file, and no other.

    Raises :class:`SigmaError` naming the first tensor that is missing, extra, misshapen or not finite; the policy is
    then what it was before.
    """
    from peft import set_peft_model_state_dict
    from peft.utils import get_peft_model_state_dict

    _refuse_second(policy)
    config, tensors = _read(Path(folder))
    config.inference_mode = not trainable
    try:
        model = get_peft_model(policy, config)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SigmaError(f"{folder}: the adapter does not fit this base ({reason})") from None
    try:
        check_tensors(weights_file(folder), tensors, get_peft_model_state_dict(model), "another base or rank")
    except SigmaError:
        model.unload()
        raise
    set_peft_model_state_dict(model, tensors)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if trainable:
        for parameter in lora_parameters(model):
            parameter.requires_grad_(True)
    return model


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Adapted modules by full name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every LoRA parameter, in a stable order."""
    return [parameter for name, parameter in sorted(model.named_parameters()) if ".lora_" in name]


@contextmanager
def disabled(model: nn.Module, only: "Sequence[str] | None" = None) -> Iterator[None]:
    """Switch adapters off inside the block: all of them, or the modules whose full names are in ``only``."""
    chosen = [layer for name, layer in lora_layers(model).items() if only is None or name in only]
    before = [layer.disable_adapters for layer in chosen]
    for layer in chosen:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, state in zip(chosen, before, strict=True):
            layer._disable_adapters = state
