"""The folder of a trained arm: its files, its record, and the names under which it is scored and played.

``kind`` in ``arm.json`` says what the folder's ``model/`` is:

- ``sigma``: LoRA and heads on the frozen base, as ``models/sigma``. NAME acts under its calibrated adapter,
  NAME_full_scale at scale 1, NAME_memory_reset (in closed loop) at scale 1 with memory cleared before every decision.
- ``lora``: a PEFT adapter on the base; ``frames``: one that reads past frames too; ``full``: a whole checkpoint. All
  act by NAME_zero_noise, NAME_mean or NAME_sample. Both adapters act as NAME_gated behind the gate that Sigma has, and
  ``lora`` in closed loop as NAME_half with half of its update, between the base and itself (RETAIN, Yadav et al.,
  2025).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder
from sigma.shared.records import NUMBER, POSITIVE, read_record
from sigma.studies.study.cells.parameters import ArmKind
from sigma.studies.study.cells.workspace import Workspace

if TYPE_CHECKING:
    from sigma.policy.pi05.base_action import Kind as Decoding

SUBJECT = "sigma"  # the arm that every other one is compared with
RECORD, MODEL, CURVES = "arm.json", "model", "curves.parquet"
# What is written when a trained arm is played.
PREDICTIONS, CALIBRATION = "predictions.parquet", "adapter_calibration.json"
EPISODES = "episodes.parquet"
FULL_SCALE, MEMORY_RESET, GATED, HALF = "full_scale", "memory_reset", "gated", "half"
DECODINGS: "tuple[Decoding, ...]" = ("zero_noise", "mean", "sample")
FRAMES = 4  # earlier frames of each camera that kind ``frames`` reads, window.memory_stride control steps apart
VARIANTS: dict[str, tuple[str, ...]] = {
    "sigma": ("", FULL_SCALE, MEMORY_RESET),
    "lora": (*DECODINGS, GATED, HALF),
    "frames": (*DECODINGS, GATED),
    "full": DECODINGS,
}
_AGAIN = "run `dvc repro stages/study/dvc.yaml`"
_FORM = {
    **dict.fromkeys(("task", "arm", "shards_digest", "features_digest"), str),
    "kind": ArmKind,
    **dict.fromkeys(("seed", "steps", "selected_step", "trained_parameters"), int),
    "validation": NUMBER,
    "rate": POSITIVE,
}


def variant_names(arm: str, kind: str) -> dict[str, str]:
    """Full name -> variant; the first variant of a Sigma is empty."""
    return {f"{arm}_{variant}" if variant else arm: variant for variant in VARIANTS[kind]}


def read_arm_record(folder: Path, workspace: Workspace) -> dict[str, Any]:
    """``arm.json``, which must be of the workspace's windows and features.

    Raises :class:`SigmaError`, naming file and key, where the record is missing, of another form or of other data.
    """
    record = read_record(folder / RECORD, _FORM, _AGAIN)
    now = {
        "shards_digest": digest_file(workspace.shards / "meta.json"),
        "features_digest": digest_folder(workspace.features),
    }
    for key, digest in now.items():
        if record[key] != digest:
            raise SigmaError(
                f"{folder / RECORD}: {key}: found {record[key][:12]}, {workspace.root} has {digest[:12]}: trained on "
                f"another base or other windows; {_AGAIN}"
            )
    return record
