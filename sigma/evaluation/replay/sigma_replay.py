"""Offline replay of Sigma and of its control, and the calibration of the adapter on validation windows.

The control is CHECK A's: the same heads with adapters and FiLM off. Imported only by the stages that compute.

Legend: W windows, P pooled vectors, d backbone width, T horizon, A action dim, K factors, E factor dim.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma.compute.processes import gather_parts
from sigma.policy.adapter.calibration import calibrate, reference_set
from sigma.policy.adapter.measures import feature_distance, text_distance
from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import FILE, describe_heads, load_heads
from sigma.policy.model.model_folder import load_model, read_config
from sigma.policy.model.telepathy import TelepathyState
from sigma.policy.pi05.base_replay import batches as index_batches
from sigma.shared.errors import SigmaError
from sigma.shared.spans import residuals
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel


@dataclass(frozen=True)
class SigmaReplay:
    """Sigma's columns of ``sigma.parquet`` for W windows, a description of the heads that each pass loaded, and the
    validation windows' features, episodes and texts, from which distances are measured."""

    columns: dict[str, np.ndarray]
    heads: dict[str, dict[str, Any]]
    reference: dict[str, np.ndarray]


def open_model(batches: WindowBatches, folder: Path) -> SigmaModel:
    """The model that finetune wrote; raises :class:`SigmaError` where it was trained on other inputs than
    ``batches``."""
    config = read_config(folder)
    if config["dataset"] != batches.shards.meta["dataset"] or config["base"]["digest"] != batches.meta["base_digest"]:
        raise SigmaError(f"{folder}: trained on another dataset or base than data/ holds; run `dvc repro`")
    for key, now in (("normalisation", "normalisation"), ("base_action", "action"), ("seed", "seed")):
        if config[key] != batches.meta[now]:
            raise SigmaError(f"{folder}: trained with another {key} than data/features holds; run `dvc repro`")
    return load_model(batches.base.policy, folder, config, folder / FILE)


def decide(
    model: SigmaModel | FlowModel, batches: WindowBatches, windows: np.ndarray, batch: int, description: str
) -> dict[str, np.ndarray]:
    """The model's decisions at ``windows``, one row each: its action and, with a telepathy path, factors and
    alignment."""
    parts: list[dict[str, np.ndarray]] = []
    with torch.no_grad():
        for index in index_batches(len(windows), batch, description):
            rows = windows[index]
            observation, past = batches.observation(rows)
            passed = model.adapted_pass(observation, past)
            action = batches.decide(model.policy, passed.encoded, rows, batches.meta["action"], passed.steering)
            parts.append(_columns({"sigma_action": action, "text": observation.text}, passed.telepathy))
    return _joined(parts, len(windows), batch)


def decide_control(model: SigmaModel, batches: WindowBatches, windows: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """Factors and alignment of CHECK A's control at ``windows``: the same heads with LoRA and FiLM off."""
    parts: list[dict[str, np.ndarray]] = []
    with torch.no_grad(), lora.disabled(model.adapted):
        for index in index_batches(len(windows), batch, "evaluate: control"):
            observation, past = batches.observation(windows[index])
            parts.append(_columns({}, model.adapted_pass(observation, past, film=False).telepathy))
    return _joined(parts, len(windows), batch)


def _columns(tensors: dict[str, Tensor], telepathy: TelepathyState | None) -> dict[str, np.ndarray]:
    if telepathy is not None:
        tensors |= {"tau": telepathy.factors, "tau_l2": telepathy.factors.flatten(1).norm(dim=-1)}
        tensors |= {"sem_align": telepathy.alignment}
    return {name: value.float().cpu().numpy() for name, value in tensors.items()}


def _joined(parts: list[dict[str, np.ndarray]], windows: int, batch: int) -> dict[str, np.ndarray]:
    parts = gather_parts(parts, len(range(0, windows, batch)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def replay_windows(
    model: SigmaModel | FlowModel, batches: WindowBatches, windows: np.ndarray, batch: int, description: str
) -> SigmaReplay:
    """Decisions at ``windows`` with the measures that the adapter's risk needs; validation windows must be among them.

    The feature distance of a window is measured from the validation windows of other episodes, the text distance from
    all instructions that were trained.
    """
    columns = decide(model, batches, windows, batch, description)
    texts = columns.pop("text")
    features = batches.pooled[torch.from_numpy(batches.shards.window_frame[windows])].flatten(1).numpy()
    identity = {name: batches.columns[name][windows] for name in ("window", "episode", "step", "split")}
    columns = identity | {"base_action": batches.columns["base_action"][windows]} | columns
    chosen, trained = columns["split"] == "validation", batches.split == "train"
    known = batches.text[torch.from_numpy(np.unique(batches.shards.window_task[trained]))].numpy()
    reference = reference_set(features[chosen], columns["episode"][chosen], known)
    distances = feature_distance(
        features, reference["features"], episodes=columns["episode"], calibration_episodes=reference["episodes"]
    )
    columns["feature_distance"] = distances.astype(np.float32)
    columns["text_distance"] = text_distance(texts, reference["texts"]).astype(np.float32)
    heads = {"sigma": describe_heads(model.heads)} if isinstance(model, SigmaModel) else {}
    return SigmaReplay(columns, heads, reference)


def replay_sigma(batches: WindowBatches, folder: Path, *, batch: int) -> SigmaReplay:
    """Action, factors and alignment of every window, and the control's norm and alignment of the same windows."""
    model = open_model(batches, folder)
    windows = np.arange(len(batches.split))
    replay = replay_windows(model, batches, windows, batch, "evaluate: Sigma")
    load_heads(model.heads, folder / FILE)
    replay.heads["control"] = describe_heads(model.heads)
    control = decide_control(model, batches, windows, batch)
    replay.columns.update({f"control_{name}": control[name] for name in ("tau_l2", "sem_align")})
    return replay


def hold_action(batches: WindowBatches, windows: np.ndarray) -> np.ndarray:
    """The state now as a normalised action ``[W, A]``: what holding still would command."""
    shards = batches.shards
    return batches.builder.normalisation.action.normalise(shards.frame_state[shards.window_frame[windows]])


def calibrate_windows(batches: WindowBatches, replay: SigmaReplay) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The adapter's quantiles and reference set, from validation windows alone."""
    columns, shards = replay.columns, batches.shards
    chosen = columns["split"] == "validation"
    windows, base = columns["window"][chosen], columns["base_action"][chosen]
    calibration = calibrate(
        base_action=base,
        hold=hold_action(batches, windows),
        corrections=residuals(base, columns["sigma_action"][chosen], shards.meta["chunk"]),
        tau_l2=columns["tau_l2"][chosen] if "tau_l2" in columns else None,
        alignment=columns["sem_align"][chosen] if "sem_align" in columns else None,
        feature_distance=columns["feature_distance"][chosen],
        episodes=columns["episode"][chosen],
        instructions=sorted({shards.tasks[task] for task in shards.window_task[batches.split == "train"]}),
    )
    return calibration, replay.reference
