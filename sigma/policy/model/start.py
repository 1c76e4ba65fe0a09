"""What a training begins from: a Sigma that was trained before, or nothing but the base."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.parameters import Parameters
from sigma.policy.model.heads import SOURCE_FILE
from sigma.policy.model.lora import target_pattern
from sigma.policy.model.model_folder import CONFIG, read_config
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json
from sigma.shared.records import read_record
from sigma.shared.sources import expanded

MODEL, RECORD = "model", "start.json"
_FORM = {"source": str | None, "digest": str | None}


def copy_start(source: str | None, base: Mapping[str, Any], parameters: Parameters, folder: Path) -> None:
    """Write into the empty ``folder`` what ``fetch.start`` names, checked, and a record of it.

    ``source`` is a folder that finetune wrote or that was exported for LeRobot. Raises :class:`SigmaError` where it was
    trained on another base than that of the record ``base``, or has other sizes than the parameters ask for.
    """
    if source is None:
        _write(folder, None, None)
        return
    given = expanded(source)
    model = given / MODEL if (given / MODEL / CONFIG).is_file() else given
    if not (model / CONFIG).is_file():
        raise SigmaError(
            f"params.yaml: fetch.start: {source!r} is no folder of a trained Sigma ({given}); legal: null, a copy of "
            "models/sigma, or what `sigma export` wrote"
        )
    config = read_config(model)
    if config["base"]["digest"] != base["digest"]:
        raise SigmaError(
            f"params.yaml: fetch.start: {source!r} was trained on another base ({config['base']['source']}); legal: a "
            f"Sigma on {base['source']}, or null"
        )
    check_sizes(model, parameters, source)
    shutil.copytree(model, folder / MODEL, ignore=shutil.ignore_patterns(SOURCE_FILE))
    _write(folder, source, digest_folder(folder / MODEL))


def _write(folder: Path, source: str | None, digest: str | None) -> None:
    # A plain write: the folder appears whole or not at all, and an error names it.
    (folder / RECORD).write_text(json.dumps({"source": source, "digest": digest}, indent=2) + "\n", encoding="utf-8")


def check_sizes(model: Path, parameters: Parameters, source: str) -> None:
    """Raise :class:`SigmaError` where the folder ``model`` of a trained Sigma, which came from ``source``, is another
    function of its weights than the parameters ask for."""
    config, adapter = read_config(model), read_json(model / "adapter_config.json")
    sizes = config["sizes"]
    asked, window, lora = parameters.telepathy, parameters.window, parameters.lora
    pairs = {
        f"telepathy.{key}": (sizes.get("inner" if key == "width" else key), value)
        for key, value in asked.model_dump(mode="json", exclude={"tau_norm"}).items()
    }
    pairs |= {f"window.{key}": (sizes.get(key), getattr(window, key)) for key in ("horizon", "chunk", "trace")}
    pairs["window.memory_stride"] = config["memory_stride"], window.memory_stride
    projections = [adapter.get("target_modules"), target_pattern(("language", "expert"), lora.projections)]
    pairs["lora.projections"] = projections[0], projections[1]
    pairs |= {"lora.rank": (adapter.get("r"), lora.rank), "lora.alpha": (adapter.get("lora_alpha"), lora.alpha)}
    for key, (found, wanted) in pairs.items():
        if found != wanted:
            raise SigmaError(
                f"params.yaml: {key}: found {wanted}, but fetch.start ({source}) has {found}; legal: {found}, or "
                "fetch.start null"
            )


def read_start(folder: Path) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
    """The model that a training begins from and the record that :func:`copy_start` wrote; None where it is the base.

    Raises :class:`SigmaError` where the model was altered since.
    """
    record = read_record(folder / RECORD, _FORM)
    if record["source"] is None:
        return None, None
    if digest_folder(folder / MODEL) != record["digest"]:
        raise SigmaError(f"{folder / MODEL}: altered since it was fetched; run the fetch stage again (dvc repro)")
    return folder / MODEL, record
