"""LoRA on π0.5's attention projections, through PEFT.

The targets are regular expressions over full module names: a bare ``q_proj`` would also adapt the SigLIP tower, and
LeRobot's own default for π0.5 adapts only the action expert's q and v.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations, product
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import nn

from sigma.policy.model.tensors import check_tensors, read_tensors
from sigma.shared.errors import SigmaError
from sigma.shared.records import read_record

_TOWERS = {"language": r"paligemma\.model\.language_model", "expert": r"gemma_expert\.model"}
Tower = Literal["language", "expert"]
# Keys of adapter_config.json that differ between adapters, or only record where an adapter comes from.
_VARYING = {"r", "lora_alpha", "lora_dropout", "target_modules", "inference_mode", "auto_mapping", "revision"}
_VARYING |= {"base_model_name_or_path", "peft_version", "task_type"}
WEIGHTS, SOURCE_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"


def target_pattern(towers: Sequence[Tower], projections: Sequence[str]) -> str:
    """The regular expression over module names that PEFT matches in full."""
    names = "|".join(_TOWERS[tower] for tower in towers)
    return rf".*\.({names})\.layers\.\d+\.self_attn\.({'|'.join(projections)})_proj"


def _refuse_second(policy: nn.Module) -> None:
    if lora_layers(policy):
        raise SigmaError("the base policy carries LoRA already; load the base again")


def attach(
    policy: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    towers: Sequence[Tower] = ("language", "expert"),
    projections: Sequence[str] = ("q", "k", "v", "o"),
    seed: int,
) -> PeftModel:
    """Insert LoRA into the policy in place.

    LoRA's second matrix starts at zero, so that outputs are unchanged to the bit.
    """
    _refuse_second(policy)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it by the rank; a fraction is as good
        lora_dropout=dropout,
        bias="none",
        target_modules=target_pattern(towers, projections),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(policy, config)


def save(model: PeftModel, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into ``folder``."""
    model.save_pretrained(str(folder), safe_serialization=True)
    (Path(folder) / "README.md").unlink(missing_ok=True)


def weights_file(folder: Path) -> Path:
    """``adapter_model.safetensors``, or the source's ``adapter_model.bin`` where only that is there."""
    file, source = Path(folder) / WEIGHTS, Path(folder) / SOURCE_WEIGHTS
    return source if source.is_file() and not file.is_file() else file


def _read(folder: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    weights, config_file = weights_file(folder), Path(folder) / "adapter_config.json"
    for file in (config_file, weights):
        if not file.is_file():
            raise SigmaError(f"{file}: not found; run `dvc repro` or give the folder that finetune wrote")
    _check_config(read_record(config_file, {"target_modules": str}), config_file)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # PEFT lets through whatever a wrong value raises
        raise SigmaError(f"{config_file}: not readable ({' '.join(str(error).split())[:200]})") from None
    return config, read_tensors(weights)


def _check_config(config: dict[str, Any], file: Path) -> None:
    """Refuse settings that this project does not write: some make PEFT import a module or run a pattern without end."""
    # Every pattern that `attach` gives PEFT: towers and projections in the order of the parameters.
    towers: tuple[tuple[Tower, ...], ...] = (("language",), ("expert",), ("language", "expert"))
    orders = [order for count in range(1, 5) for order in permutations("qkvo", count)]
    patterns = (target_pattern(*choice) for choice in product(towers, orders))
    if config["target_modules"] not in patterns:
        legal = f"such as {target_pattern(('language',), 'qkvo')}"
        raise SigmaError(f"{file}: target_modules: found {config['target_modules']!r}; legal: {legal}")
    usual = json.loads(json.dumps(LoraConfig(bias="none").to_dict(), default=list))
    for key, value in config.items():
        if key not in _VARYING and (key not in usual or value != usual[key]):
            legal = repr(usual[key]) if key in usual else "no such key"
            raise SigmaError(f"{file}: {key}: found {value!r}; legal: {legal}")


def load(policy: nn.Module, folder: Path) -> PeftModel:
    """Attach a saved adapter strictly, in evaluation mode: every LoRA tensor of the model must be in the file, and no
    other.

    Raises :class:`SigmaError` naming the first tensor that is missing, extra, misshapen or not finite; the policy is
    then what it was before.
    """
    _refuse_second(policy)
    config, tensors = _read(Path(folder))
    config.inference_mode = True
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
    return model.requires_grad_(False).eval()


def fill(model: PeftModel, folder: Path) -> None:
    """Give an attached LoRA the values of a saved one, strictly, as :func:`load` does."""
    _, tensors = _read(Path(folder))
    check_tensors(weights_file(folder), tensors, get_peft_model_state_dict(model), "another base or rank")
    set_peft_model_state_dict(model, tensors)


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Adapted modules by full name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every LoRA parameter by its full name, in a stable order."""
    return {name: parameter for name, parameter in sorted(model.named_parameters()) if ".lora_" in name}


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every LoRA parameter, in a stable order."""
    return list(named_parameters(model).values())


@contextmanager
def disabled(model: nn.Module, only: Sequence[str] | None = None) -> Iterator[None]:
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
