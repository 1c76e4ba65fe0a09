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
from sigma.io import atomic_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOWERS = {"language": r"paligemma\.model\.language_model", "expert": r"gemma_expert\.model"}
Tower = Literal["language", "expert"]


def target_pattern(towers: "Sequence[Tower]", projections: "Sequence[str]") -> str:
    """The regular expression over module names that PEFT matches in full."""
    names = "|".join(_TOWERS[tower] for tower in towers)
    return rf".*\.({names})\.layers\.\d+\.self_attn\.({'|'.join(projections)})_proj"


def attach(
    policy: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    towers: "Sequence[Tower]" = ("language",),
    projections: "Sequence[str]" = ("q", "k", "v", "o"),
    seed: int,
) -> PeftModel:
    """Insert LoRA into the policy in place; B starts at zero, so that outputs are unchanged to the bit."""
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=target_pattern(towers, projections),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(policy, config)


def save(model: PeftModel, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into ``folder``."""
    model.save_pretrained(folder, safe_serialization=True)
    (Path(folder) / "README.md").unlink(missing_ok=True)


def convert_bin(folder: Path, target: Path) -> None:
    """Rewrite an ``adapter_model.bin`` folder (the source's layout) as safetensors, read with ``weights_only``."""
    import shutil

    from safetensors.torch import save_file

    try:
        tensors = torch.load(folder / "adapter_model.bin", map_location="cpu", weights_only=True)
    except Exception as error:
        raise SigmaError(
            f"{folder / 'adapter_model.bin'}: not a plain file of tensors ({type(error).__name__})"
        ) from None
    with atomic_directory(target) as temporary:
        shutil.copyfile(folder / "adapter_config.json", temporary / "adapter_config.json")
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / "adapter_model.safetensors"
        )


def load(policy: nn.Module, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Attach a saved adapter strictly: every LoRA tensor of the model must be in the file, and no other.

    Raises :class:`SigmaError` naming the first tensor that is missing, extra or of another shape.
    """
    from peft import PeftConfig, set_peft_model_state_dict
    from peft.utils import get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = Path(folder) / "adapter_model.safetensors"
    config_file = Path(folder) / "adapter_config.json"
    for file in (config_file, weights):
        if not file.is_file():
            raise SigmaError(f"{file}: not found; run `dvc repro` or give the folder that finetune wrote")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(weights)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise SigmaError(f"{folder}: not a readable adapter ({' '.join(str(error).split())})") from None
    config.inference_mode = not trainable
    model = get_peft_model(policy, config)
    expected = get_peft_model_state_dict(model)
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise SigmaError(f"{weights}: tensor {name} is missing; this adapter was made for another base or rank")
        if name not in expected:
            raise SigmaError(
                f"{weights}: tensor {name} is not one of this base's; the adapter was made for another base"
            )
        if tensors[name].shape != expected[name].shape:
            found, wanted = tuple(tensors[name].shape), tuple(expected[name].shape)
            raise SigmaError(f"{weights}: tensor {name} has shape {found}, expected {wanted}")
        if not torch.isfinite(tensors[name]).all():
            raise SigmaError(f"{weights}: tensor {name} holds a non-finite number")
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
