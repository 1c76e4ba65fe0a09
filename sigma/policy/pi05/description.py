"""A base described to the bit: configuration, tokenizer, statistics and tensors, as a reference with one digest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from sigma.policy.pi05.base_origin import resolve_base
from sigma.policy.pi05.prompt import Prompter, read_tokenizer
from sigma.policy.pi05.small.configuration_pi05_small import PI05SmallConfig
from sigma.policy.pi05.weights import stored_tensors, tensor_digest
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, read_json
from sigma.shared.hub import newest_commit, snapshot
from sigma.shared.quantiles import Quantiles
from sigma.shared.records import read_record

STATE, ACTION = "observation.state", "action"
_PREPROCESSOR = "policy_preprocessor.json"
TOKENIZER_PATTERNS = ("*.json", "*.model")  # not the weights that may lie beside it
_TYPES = {"pi05": PI05Config, "pi05_small": PI05SmallConfig}


def _configuration(folder: Path) -> PI05Config:
    file = folder / "config.json"
    raw = read_json(file)
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind not in _TYPES:
        raise SigmaError(f"{file}: type is {kind!r}; legal: {', '.join(sorted(_TYPES))}")
    try:
        config = PreTrainedConfig.from_pretrained(folder)
        config.validate_features()
    except Exception as error:  # draccus raises a wide family
        raise SigmaError(f"{file}: not a {kind} configuration ({' '.join(str(error).split())})") from None
    if config.use_relative_actions:
        raise SigmaError(f"{file}: use_relative_actions is true; relative actions are not supported; legal: false")
    for feature in ("STATE", "ACTION"):
        mode = config.normalization_mapping.get(feature)
        if mode is not NormalizationMode.QUANTILES:
            raise SigmaError(f"{file}: normalization_mapping.{feature} is {mode}; legal: QUANTILES")
    return config


def _steps(folder: Path) -> dict[str, dict[str, Any]]:
    """The saved pre-processor's steps by registered name, each with its ``config``; none without a pre-processor."""
    file = folder / _PREPROCESSOR
    if not file.is_file():
        return {}
    steps = read_record(file, {"steps": [{}]}, "a base is a LeRobot policy folder")["steps"]
    for step in steps:
        config, state = step.setdefault("config", {}), step.get("state_file", "")
        if not isinstance(config, dict):
            raise SigmaError(f"{file}: config: expected a mapping, found {config!r}")
        if not isinstance(state, str) or state != Path(state).name:
            raise SigmaError(f"{file}: state_file: found {state!r}; legal: the name of a file beside it")
    return {str(step.get("registry_name")): step for step in steps}


def _statistics(folder: Path, dims: dict[str, int], declared: dict[str, int]) -> dict[str, Quantiles] | None:
    """q01 and q99 of state and action from LeRobot's saved normalizer step; None where there are none of ``dims``.

    Statistics of a padded vector of the ``declared`` size, narrowed to a robot's joints, are not that robot's.
    """
    steps = _steps(folder)
    if steps.get("relative_actions_processor", {"config": {}})["config"].get("enabled"):
        raise SigmaError(f"{folder / _PREPROCESSOR}: relative actions are switched on; they are not supported")
    step = steps.get("normalizer_processor", {})
    if "state_file" not in step:
        return None
    file = folder / step["state_file"]
    try:
        stored = load_file(file)
    except Exception as error:  # missing or corrupt
        raise SigmaError(f"{file}: not readable as safetensors ({' '.join(str(error).split())})") from None
    statistics = {}
    for feature, dim in dims.items():
        names = [f"{feature}.q01", f"{feature}.q99"]
        if not all(name in stored for name in names):
            return None
        low, high = (stored[name].float().numpy() for name in names)
        if declared[feature] != dim and low.shape == (declared[feature],):
            return None
        if low.shape != (dim,):
            raise SigmaError(f"{file}: {names[0]} has shape {low.shape}; config.json asks for ({dim},)")
        try:
            statistics[feature] = Quantiles(low, high, float(step["config"].get("eps", 1e-8)))
        except (SigmaError, TypeError, ValueError) as error:
            raise SigmaError(f"{file}: {feature}: {error}") from None
    return statistics


def _tokenizer_commit(folder: Path) -> dict[str, str] | None:
    """Source and present commit of the tokenizer that the saved pre-processor names; None where the folder has one."""
    if (folder / "tokenizer").is_dir():
        return None
    source = _steps(folder).get("tokenizer_processor", {"config": {}})["config"].get("tokenizer_name")
    if not isinstance(source, str):
        raise SigmaError(f"{folder}: no tokenizer folder, and {_PREPROCESSOR} names none")
    return {"source": source, "revision": newest_commit(source, "model", TOKENIZER_PATTERNS)}


def _tokenizer(folder: Path, pinned: dict[str, str] | None, *, verify: bool, download: bool) -> PreTrainedTokenizerFast:
    """The policy's tokenizer: its own folder, or a Hub repository at the commit that was pinned when it was fetched."""
    place = folder / "tokenizer"
    if pinned is not None:
        source, revision = pinned["source"], pinned["revision"]
        place = snapshot(source, revision, "model", patterns=TOKENIZER_PATTERNS, verify=verify, download=download)
    return read_tokenizer(place)


def _dims(config: PI05Config) -> dict[str, int]:
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


def read_facts(
    folder: Path,
    pinned: dict[str, str] | None,
    joints: Mapping[str, int] | None,
    *,
    verify: bool,
    download: bool,
) -> tuple[PI05Config, PreTrainedTokenizerFast, dict[str, Quantiles] | None, dict[str, Any]]:
    """Everything but the weights, and the JSON-ready description of it.

    ``pinned`` is the tokenizer's repository. ``joints`` are the robot's sizes of state and action, by default those
    that the configuration declares.
    """
    config, tokenizer = _configuration(folder), _tokenizer(folder, pinned, verify=verify, download=download)
    declared = _dims(config)
    if joints is not None:
        fit_joints(config, joints, folder / "config.json")
    dims = _dims(config)
    statistics = _statistics(folder, dims, declared)
    vocabulary = getattr(config, "vocabulary_size", 257152)
    if tokenizer.vocab_size > vocabulary:
        raise SigmaError(f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the policy embeds {vocabulary}")
    description = {
        "type": config.type,
        "cameras": list(config.image_features),
        "resolution": config.image_resolution[0],
        "state_dim": dims[STATE],
        "action_dim": dims[ACTION],
        "chunk_size": config.chunk_size,
        "num_steps": config.num_inference_steps,
        "prompt_length": config.tokenizer_max_length,
        "relative_actions": False,
        "statistics": {name: entry.to_json() for name, entry in statistics.items()} if statistics else None,
        "config": digest_file(folder / "config.json"),
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
    }
    return config, tokenizer, statistics, description


def description_digest(description: Mapping[str, Any], tensors: Mapping[str, str]) -> str:
    whole = {**description, "tensors": tensors}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _check_tasks(tasks: Sequence[str], prompter: Prompter, joints: int) -> None:
    """Refuse a task that leaves no room for the largest numbers of a state; one without words is the audit's."""
    if texts := [task for task in tasks if task.strip()]:
        try:
            prompter(texts, np.ones((len(texts), joints)))
        except SigmaError as error:
            raise SigmaError(f"meta/tasks.parquet: {error}") from None


def describe_base(
    source: str, revision: str | None, joints: int | None = None, tasks: Sequence[str] = ()
) -> dict[str, Any]:
    """A JSON-ready reference of a base: source, revision, sizes, statistics and a digest of everything it consists of.

    ``digest`` covers the whole description but where it came from, so equal bases in two places have equal digests.

    ``source`` is ``embedded``, a folder, or a Hub id with a commit as ``revision``. ``joints`` are the robot's, where
    the base may declare the padded vectors that serve any (:func:`fit_joints`). Raises :class:`SigmaError` also where
    one of the ``tasks`` does not fit into the base's prompt beside a state.
    """
    folder = resolve_base(source, revision, verify=True)
    pinned = _tokenizer_commit(folder)
    sizes = None if joints is None else {STATE: joints, ACTION: joints}
    config, tokenizer, _, description = read_facts(folder, pinned, sizes, verify=True, download=True)
    _check_tasks(tasks, Prompter(tokenizer, config.tokenizer_max_length), description["state_dim"])
    tensors = {name: tensor_digest(tensor) for name, tensor in stored_tensors(folder)}
    origin = {"source": source, "revision": revision or None, "tokenizer_origin": pinned}
    return {**origin, **description, "tensors": tensors, "digest": description_digest(description, tensors)}
