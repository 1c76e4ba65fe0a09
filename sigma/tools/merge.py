"""``sigma merge``: a LoRA checkpoint of LeRobot and the base that it was trained on, as one π0.5 checkpoint."""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sigma.policy.model.tensors import read_tensors
from sigma.policy.pi05.base_origin import EMBEDDED, HUB_ID, resolve_base
from sigma.policy.pi05.configuration import LORA
from sigma.policy.pi05.weights import WEIGHTS, module_name, stored_tensors
from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_directory, read_json, write_json
from sigma.shared.hub import newest_commit
from sigma.shared.records import NUMBER, read_record

ADAPTER = "adapter_model.safetensors"
# Settings of PEFT under which an update is more than a product of two matrices, with the value that leaves it one.
_PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    **dict.fromkeys(("fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication"), None),
}


def run(*, lora: Path, output: Path, base: str | None = None, base_revision: str | None = None) -> str:
    """Write ``output`` whole or not at all: the base's weights with the update added, the rest from ``lora``.

    ``base`` is by default the one that ``lora`` names, at ``base_revision`` or the Hub's newest commit. Returns a line.

    Raises:
        SigmaError: a file is missing or damaged, a setting makes more than a plain update, or the base is another one.
    """
    if output.exists():
        raise SigmaError(f"{output}: exists already; choose another folder")
    file = lora / LORA
    settings = read_record(file, {"r": int, "lora_alpha": NUMBER, "base_model_name_or_path": str | None}, "not LoRA")
    for name, legal in _PLAIN.items():
        if (value := settings.get(name) or None) != (legal or None):
            raise SigmaError(f"{file}: {name} is {value!r}; legal: {legal!r}")
    source = base or settings["base_model_name_or_path"]
    if not source:
        raise SigmaError(f"{file}: base_model_name_or_path: names no base; give it: --base")
    if source != EMBEDDED and not Path(source).is_dir() and HUB_ID.fullmatch(source):
        base_revision = base_revision or newest_commit(source, "model", ("config.json",))
    folder = resolve_base(source, base_revision)
    scale = settings["lora_alpha"] / (settings["r"] ** 0.5 if settings.get("use_rslora") else settings["r"])
    config = read_json(lora / "config.json") | {"use_peft": False, "pretrained_path": None}
    with atomic_directory(output) as temporary:
        save_file(_merged(folder, lora / ADAPTER, scale), temporary / WEIGHTS, {"format": "pt"})
        write_json(temporary / "config.json", config)
        for part in (*lora.glob("policy_p*"), *lora.glob("tokenizer*")):
            (shutil.copytree if part.is_dir() else shutil.copyfile)(part, temporary / part.name)
    return f"merge: {lora} on {source}{f'@{base_revision}' if base_revision else ''} written to {output}"


def _merged(base: Path, file: Path, scale: float) -> dict[str, Any]:
    """The base's tensors by stored name, those that the update names in float32 with it added."""
    updates = read_tensors(file)
    tensors = {}
    for name, tensor in stored_tensors(base):
        key = f"base_model.model.{(module_name(name) or name).removesuffix('.weight')}"
        down, up = (updates.pop(f"{key}.lora_{part}.weight", None) for part in "AB")
        if down is not None and up is not None:
            if (up.shape[0], down.shape[1]) != tuple(tensor.shape):
                raise SigmaError(f"{file}: {key} is not of the shape {tuple(tensor.shape)} that {base} has")
            tensor = tensor.float() + scale * (up.float() @ down.float())
        tensors[name] = tensor
    if updates:
        raise SigmaError(f"{file}: {base} has no place for {min(updates)}; give its base: --base")
    return tensors
