"""The folder of Sigma as a LeRobot policy, and how it is written.

::

    config.json                        SigmaConfig: base and revision, steps a decision, adapter, clamp
    policy_preprocessor.json, policy_postprocessor.json
    base.json                          what the base is, with a digest of every tensor
    model/                             what finetune wrote: LoRA, heads, statistics, tokenizer
    adapter_calibration.json, .safetensors
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature

from sigma.policy.adapter.calibration import read_calibration
from sigma.policy.lerobot.configuration_sigma import AdapterConfig, SigmaConfig
from sigma.policy.lerobot.processor_sigma import make_sigma_pre_post_processors
from sigma.policy.model import lora
from sigma.policy.model.heads import heads_file
from sigma.policy.model.model_folder import read_config
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json
from sigma.shared.hub import hub_errors
from sigma.shared.records import BASE as BASE_RECORD
from sigma.shared.records import read_record

MODEL, CALIBRATION, BASE = Path("model"), Path("adapter_calibration.json"), Path("base.json")
PATTERNS = ("*.json", "*.safetensors", "model/*", "model/tokenizer/*")
"""The files of such a folder that are downloaded from a Hub repository."""

DOWNLOAD_OPTIONS = ("revision", "force_download", "token", "cache_dir", "local_files_only")
LEAST_STEP = 0.01  # of the fastest joint's step: a joint that was never moved can still come back to its place


def training_limits(config: dict[str, Any]) -> dict[str, Any]:
    """The clamp that a model's training episodes give, joint by joint and whatever the units: the range of their
    actions, and how far an action moved in one control step."""
    limits = config["limits"]
    least = LEAST_STEP * max(limits["step"])
    return {
        "joint_lower": limits["min"],
        "joint_upper": limits["max"],
        "max_step": [max(step, least) for step in limits["step"]],
    }


def policy_config(
    config: dict[str, Any],
    base: dict[str, Any],
    *,
    adapter: AdapterConfig,
    n_action_steps: int | None = None,
    limits: dict[str, Any],
    license: str = "apache-2.0",
) -> SigmaConfig:
    """The LeRobot configuration of a model with this ``config.json`` on the base of this ``base.json``.

    By default as many steps are executed a decision as the memory's stride and the short chunk allow.
    """
    sizes, stride, side = config["sizes"], config["memory_stride"], base["resolution"]
    policy = SigmaConfig(
        base_source=base["source"],
        base_revision=base["revision"],
        n_action_steps=n_action_steps or max(steps for steps in range(1, sizes["chunk"] + 1) if stride % steps == 0),
        adapter=adapter,
        action_feature_names=list(config["joint_names"]),
        input_features={
            **{camera: PolicyFeature(FeatureType.VISUAL, (3, side, side)) for camera in config["cameras"]},
            "observation.state": PolicyFeature(FeatureType.STATE, (sizes["state_dim"],)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (sizes["action_dim"],))},
        device="cpu",
        push_to_hub=False,
        license=license,
        **limits,
    )
    policy.validate_features()
    return policy


def check_parts(model: Path, calibration: Path, base: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config.json`` of the model and ``base.json``; raises :class:`SigmaError` where a part is missing or belongs to
    another base, or the calibration to other weights."""
    config, reference = read_config(model), read_record(base, BASE_RECORD)
    for weights in (model / lora.WEIGHTS, heads_file(model)):
        if not weights.is_file():
            raise SigmaError(f"{weights}: not found; run the stage that writes it (dvc repro)")
    read_calibration(calibration, model)
    if config["base"]["digest"] != reference["digest"]:
        raise SigmaError(f"{model}: was trained on another base than that of {base}; train it again (dvc repro)")
    return config, reference


def write_parts(folder: Path, *, model: Path, calibration: Path, base: Path, config: SigmaConfig) -> None:
    """Copy the parts byte by byte into an existing folder; ``config.json`` comes last, without which it is no
    policy."""
    shutil.copytree(model, folder / MODEL, dirs_exist_ok=True)
    for source, target in ((calibration, CALIBRATION), (base, BASE)):
        shutil.copyfile(source, folder / target)
    shutil.copyfile(calibration.with_suffix(".safetensors"), (folder / CALIBRATION).with_suffix(".safetensors"))
    for processor in make_sigma_pre_post_processors(config):
        processor.save_pretrained(folder)
    config.save_pretrained(folder)
    written = folder / "config.json"
    # LeRobot writes where the policy was loaded from, which may be a path that exists on this machine only.
    write_json(written, read_json(written) | {"pretrained_path": None, "pretrained_revision": None})


def fetch(source: str, options: Mapping[str, Any]) -> Path:
    """The folder itself, or a snapshot of the Hub repository of this name."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    download = {name: options[name] for name in DOWNLOAD_OPTIONS if name in options}
    with hub_errors(f"{source}: no such folder, and not given by the Hub", source, "model"):
        return Path(snapshot_download(source, allow_patterns=list(PATTERNS), **download))
