"""A base described to the bit: configuration, tokenizer, statistics and tensors, as a reference with one digest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.configs import NormalizationMode
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from sigma.policy.pi05.base_origin import HUB_ID, resolve_base
from sigma.policy.pi05.configuration import ACTION, STATE, fit_joints, normalisations, read_configuration, vector_sizes
from sigma.policy.pi05.prompt import Prompter, read_tokenizer
from sigma.policy.pi05.weights import stored_tensors, tensor_digest
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file
from sigma.shared.hub import newest_commit, snapshot
from sigma.shared.quantiles import Quantiles
from sigma.shared.records import read_record

COLUMNS = {NormalizationMode.QUANTILES: ("q01", "q99"), NormalizationMode.MEAN_STD: ("mean", "std")}
_ORIGIN = ("source", "revision", "tokenizer_origin")
_PREPROCESSOR = "policy_preprocessor.json"
TOKENIZER_PATTERNS = ("*.json", "*.model")  # not the weights that may lie beside it


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


def read_range(columns: Mapping[str, Any], mode: NormalizationMode, eps: float = 1e-8) -> Quantiles:
    """What a mode of LeRobot's maps to −1 and 1, from statistics by name: q01 and q99, or mean ∓ std for MEAN_STD."""
    low, high = (np.asarray(columns[name], dtype=np.float32) for name in COLUMNS[mode])
    return Quantiles(low, high, eps) if mode is NormalizationMode.QUANTILES else Quantiles(low - high, low + high, eps)


def _statistics(folder: Path, config: PI05Config, declared: dict[str, int]) -> dict[str, Quantiles] | None:
    """The ranges of state and action in LeRobot's saved normalizer step; None where there are none of the robot's.

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
    for (feature, dim), mode in zip(vector_sizes(config).items(), normalisations(config).values(), strict=True):
        kind = "STATE" if feature == STATE else "ACTION"
        saved = step["config"].get("norm_map")
        if isinstance(saved, dict) and saved.get(kind, mode.value) != mode.value:
            raise SigmaError(
                f"{folder / _PREPROCESSOR}: norm_map.{kind} is {saved[kind]}, but config.json has {mode.value}; legal: "
                "the one by which the base was trained, in both"
            )
        names = [f"{feature}.{name}" for name in COLUMNS[mode]]
        if not all(name in stored for name in names):
            return None
        columns = {name: stored[key].float().numpy() for name, key in zip(COLUMNS[mode], names, strict=True)}
        shape = columns[COLUMNS[mode][0]].shape
        if declared[feature] != dim and shape == (declared[feature],):
            return None
        if shape != (dim,):
            raise SigmaError(f"{file}: {names[0]} has shape {shape}; config.json asks for ({dim},)")
        try:
            statistics[feature] = read_range(columns, mode, float(step["config"].get("eps", 1e-8)))
        except (SigmaError, TypeError, ValueError) as error:
            raise SigmaError(f"{file}: {feature}: {error}") from None
    return statistics


def _own_tokenizer(folder: Path) -> Path | None:
    """The tokenizer in the checkpoint, or in a folder that its saved pre-processor names; None where it has neither."""
    named = _steps(folder).get("tokenizer_processor", {"config": {}})["config"].get("tokenizer_name")
    places = [folder / "tokenizer", folder]
    if isinstance(named, str) and named:
        places += [folder / named, Path(named)]
    return next((place for place in places if (place / "tokenizer.json").is_file()), None)


def _tokenizer_commit(folder: Path) -> dict[str, str] | None:
    """Source and present commit of the tokenizer that the saved pre-processor names; None where it is a folder."""
    if (folder / "tokenizer").is_dir() or _own_tokenizer(folder):
        return None
    source = _steps(folder).get("tokenizer_processor", {"config": {}})["config"].get("tokenizer_name")
    if not isinstance(source, str):
        raise SigmaError(f"{folder}: no tokenizer folder, and {_PREPROCESSOR} names none")
    if not HUB_ID.fullmatch(source):
        raise SigmaError(
            f"{folder / _PREPROCESSOR}: tokenizer_name: no tokenizer.json in {source!r}; copy the tokenizer's files to "
            f"{folder / 'tokenizer'}"
        )
    return {"source": source, "revision": newest_commit(source, "model", TOKENIZER_PATTERNS)}


def _tokenizer(folder: Path, pinned: dict[str, str] | None, *, verify: bool, download: bool) -> PreTrainedTokenizerFast:
    """The policy's tokenizer: its own folder, or a Hub repository at the commit that was pinned when it was fetched."""
    if pinned is None:
        return read_tokenizer(_own_tokenizer(folder) or folder / "tokenizer")
    source, revision = pinned["source"], pinned["revision"]
    return read_tokenizer(
        snapshot(source, revision, "model", patterns=TOKENIZER_PATTERNS, verify=verify, download=download)
    )


def read_facts(
    folder: Path, pinned: dict[str, str] | None, joints: Mapping[str, int] | None, *, verify: bool, download: bool
) -> tuple[PI05Config, PreTrainedTokenizerFast, dict[str, Quantiles] | None, dict[str, Any]]:
    """Everything but the weights, and the JSON-ready description of it.

    ``pinned`` is the tokenizer's repository. ``joints`` are the robot's sizes of state and action, by default those
    that the configuration declares.
    """
    config, tokenizer = read_configuration(folder), _tokenizer(folder, pinned, verify=verify, download=download)
    declared = vector_sizes(config)
    if joints is not None:
        fit_joints(config, joints, folder / "config.json")
    dims, statistics = vector_sizes(config), _statistics(folder, config, declared)
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


def describe_facts(
    source: str, revision: str | None, joints: int | None = None, tasks: Sequence[str] = ()
) -> dict[str, Any]:
    """What :func:`describe_base` returns and refuses, without its weights and the digest: it takes no time."""
    folder = resolve_base(source, revision, verify=True)
    pinned = _tokenizer_commit(folder)
    sizes = None if joints is None else {STATE: joints, ACTION: joints}
    config, tokenizer, _, description = read_facts(folder, pinned, sizes, verify=True, download=True)
    _check_tasks(tasks, Prompter(tokenizer, config.tokenizer_max_length), description["state_dim"])
    return dict(zip(_ORIGIN, (source, revision or None, pinned), strict=True)) | description


def describe_base(
    source: str, revision: str | None, joints: int | None = None, tasks: Sequence[str] = ()
) -> dict[str, Any]:
    """A JSON-ready reference of a base: source, revision, sizes, statistics and a digest of everything it consists of.

    ``digest`` covers the whole description but where it came from, so equal bases in two places have equal digests.

    ``source`` is ``embedded``, a folder, or a Hub id with a commit as ``revision``. ``joints`` are the robot's, where
    the base may declare the padded vectors that serve any (:func:`fit_joints`). Raises :class:`SigmaError` also where
    one of the ``tasks`` does not fit into the base's prompt beside a state.
    """
    facts = describe_facts(source, revision, joints, tasks)
    tensors = {name: tensor_digest(tensor) for name, tensor in stored_tensors(resolve_base(source, revision))}
    description = {key: value for key, value in facts.items() if key not in _ORIGIN}
    return facts | {"tensors": tensors, "digest": description_digest(description, tensors)}
