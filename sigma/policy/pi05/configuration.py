"""``config.json`` of a base: read whichever LeRobot wrote it, and refused where Sigma would run another policy."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import draccus
from lerobot.configs import NormalizationMode
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from sigma.policy.pi05.small.configuration_pi05_small import PI05SmallConfig
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json

STATE, ACTION = "observation.state", "action"
LORA = "adapter_config.json"
_NORMALISATIONS = {"STATE": ("QUANTILES", "MEAN_STD"), "ACTION": ("QUANTILES", "MEAN_STD"), "VISUAL": ("IDENTITY",)}
_TYPES = {"pi05": PI05Config, "pi05_small": PI05SmallConfig}
_EMPTY_CAMERA = "observation.images.empty_camera_"
# LeRobot's own memory, after 0.6.1: it reads past frames, which this project's passes over a base do not.
_MEMORY = ("use_visual_memory", "use_proprioceptive_memory")
# Fields beside it that act with it or in training alone.
_IDLE = ("memory_frames", "memory_stride", "memory_temporal_attention_every", "rtc_training_max_delay")

log = logging.getLogger(__name__)


def read_configuration(folder: Path) -> PI05Config:
    """The configuration of the base in ``folder``, without the empty cameras that LeRobot can add to it.

    A field that the installed LeRobot does not know passes with a warning where it switches nothing on.

    Raises:
        SigmaError: another policy, LoRA without its base, a field or a normalisation that Sigma does not follow.
    """
    file = folder / "config.json"
    raw = read_json(file)
    kind = raw.pop("type", None) if isinstance(raw, dict) else None
    if kind not in _TYPES:
        raise SigmaError(f"{file}: type is {kind!r}; legal: {', '.join(sorted(_TYPES))}")
    if raw.get("use_peft") or (folder / LORA).is_file():
        merge = shlex.join(["sigma", "merge", str(folder), "--output", f"{folder}-merged"])
        raise SigmaError(f"{folder}: LoRA without the base that it was trained on; put the two together: {merge}")
    unknown = sorted(raw.keys() - {field.name for field in fields(_TYPES[kind])})
    for name in sorted({*unknown, *_MEMORY} - {*_IDLE}):
        if value := raw.get(name):
            raise SigmaError(
                f"{file}: {name} is {value!r}; Sigma does not know this field, and would run another policy; legal: a "
                "base that was trained without it"
            )
    raw = {name: value for name, value in raw.items() if name not in unknown}
    if unknown:
        log.warning("%s: fields of another LeRobot that switch nothing on are ignored: %s", file, ", ".join(unknown))
    try:
        config = draccus.decode(_TYPES[kind], raw)
        config.validate_features()
    except Exception as error:  # draccus raises a wide family
        raise SigmaError(f"{file}: not a {kind} configuration ({' '.join(str(error).split())})") from None
    if config.use_relative_actions:
        raise SigmaError(f"{file}: use_relative_actions is true; relative actions are not supported; legal: false")
    for feature, legal in _NORMALISATIONS.items():
        mode = config.normalization_mapping.get(feature, NormalizationMode.IDENTITY).value
        if mode not in legal:
            raise SigmaError(
                f"{file}: normalization_mapping.{feature} is {mode}; legal: {', '.join(legal)}, by which the base was "
                "trained (another name here would scale its actions in silence)"
            )
    config.input_features = {
        name: feature for name, feature in config.input_features.items() if not name.startswith(_EMPTY_CAMERA)
    }
    return config


def normalisations(config: PI05Config) -> dict[str, NormalizationMode]:
    """The modes by which ``observation.state`` and ``action`` are normalised."""
    return {STATE: config.normalization_mapping["STATE"], ACTION: config.normalization_mapping["ACTION"]}


def vector_sizes(config: PI05Config) -> dict[str, int]:
    """The sizes of ``observation.state`` and ``action`` that a configuration declares."""
    return {STATE: config.input_features[STATE].shape[0], ACTION: config.output_features[ACTION].shape[0]}


def fit_joints(config: PI05Config, joints: Mapping[str, int], where: str | Path) -> None:
    """Narrow a configuration that declares padded vectors to a robot's sizes of ``observation.state`` and ``action``.

    π0.5 computes with vectors of ``max_state_dim`` and ``max_action_dim`` values (32), whose rest is zero. A published
    checkpoint may declare just these, and LeRobot's fine-tuning narrows ``action`` alone; a robot of D joints has the
    first D of them. Any other size is another robot's.

    Raises :class:`SigmaError` for such a size, and for more joints than the vectors hold.
    """
    for feature, features, most in (
        (STATE, config.input_features, config.max_state_dim),
        (ACTION, config.output_features, config.max_action_dim),
    ):
        declared, wanted = features[feature].shape[0], joints[feature]
        if declared != wanted and (declared != most or wanted > most):
            legal = f"{declared}" if declared != most else f"at most {most}"
            sizes = f"{feature} has {declared} values, the robot {wanted} joints"
            raise SigmaError(f"{where}: {sizes}; legal: {legal} joints")
        features[feature] = replace(features[feature], shape=(wanted,))
