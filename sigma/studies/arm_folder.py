"""The folder ARM-SEED of a trained arm: its files, its record, and the names under which it is scored and played.

``kind`` in ``arm.json`` says what the folder's ``model/`` is:

- ``sigma``: LoRA and heads on the frozen base, as ``models/sigma``, with ``adapter_calibration.json`` beside it. NAME
  acts under the calibrated adapter, NAME_full_scale at scale 1, NAME_memory_cleared (in closed loop) under the adapter
  with memory cleared before every decision.
- ``lora``: a PEFT adapter on the base; ``full``: a whole checkpoint. Both act by NAME_sample, NAME_zero_noise or
  NAME_mean.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sigma.shared.errors import SigmaError
from sigma.shared.records import read_record

if TYPE_CHECKING:
    from sigma.policy.pi05.base_action import Kind as Decoding

RECORD, MODEL, CALIBRATION = "arm.json", "model", "adapter_calibration.json"
PREDICTIONS, CURVES = "predictions.parquet", "curves.parquet"
ArmKind = Literal["sigma", "lora", "full"]
FULL_SCALE, MEMORY_CLEARED = "full_scale", "memory_cleared"
DECODINGS: "tuple[Decoding, ...]" = ("sample", "zero_noise", "mean")
VARIANTS: dict[str, tuple[str, ...]] = {
    "sigma": ("", FULL_SCALE, MEMORY_CLEARED),
    "lora": DECODINGS,
    "full": DECODINGS,
}
_AGAIN = "run `dvc repro stages/ablation/dvc.yaml`"
_FORM = {
    "arm": str,
    "kind": ArmKind,
    **dict.fromkeys(("seed", "steps", "selected_step", "trained_parameters"), int),
    **dict.fromkeys(("shards_digest", "features_digest"), str),
    "variants": [str],
}


def variant_names(arm: str, kind: str) -> dict[str, str]:
    """Full name -> variant; the first variant of a Sigma is empty."""
    return {f"{arm}_{variant}" if variant else arm: variant for variant in VARIANTS[kind]}


def read_arm_record(folder: Path, digests: Mapping[str, str]) -> dict[str, Any]:
    """``arm.json``, whose ``shards_digest`` and ``features_digest`` must be those in ``digests``.

    Raises :class:`SigmaError`, naming file and key, where the record is missing, of another form or of other data.
    """
    record = read_record(folder / RECORD, _FORM, _AGAIN)
    for key, digest in digests.items():
        if record[key] != digest:
            raise SigmaError(
                f"{folder / RECORD}: {key}: found {record[key][:12]}, data/ has {digest[:12]}: trained on another base "
                f"or other windows; {_AGAIN}"
            )
    return record
