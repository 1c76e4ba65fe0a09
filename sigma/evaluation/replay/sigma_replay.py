"""Offline replay of Sigma and of its control, and the calibration of the adapter on validation windows.

The control is CHECK A's: the same heads with adapters and FiLM off. Imported only by the stages that compute.

Legend: W windows, F stored frames, T horizon, A action dim, K factors, E factor dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma.compute.processes import gather_parts
from sigma.evaluation.replay.gate_replay import calibrate_gate, measure_gate, score_gate, stored_frames
from sigma.policy.adapter.calibration import Calibration
from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import FILE, describe_heads, load_heads
from sigma.policy.model.model_folder import load_model, read_config
from sigma.policy.model.telepathy import TelepathyState
from sigma.policy.pi05.base_action import deterministic_action
from sigma.policy.pi05.base_replay import batches as index_batches
from sigma.policy.pi05.observation import Observation, Past
from sigma.shared.errors import SigmaError
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel


@dataclass(frozen=True)
class SigmaReplay:
    """Sigma's columns of ``sigma.parquet`` for W windows, a description of the heads that each pass loaded, and the
    adapter's calibration on the validation windows."""

    columns: dict[str, np.ndarray]
    heads: dict[str, dict[str, Any]]
    calibration: Calibration


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


def observe(batches: WindowBatches, frames: np.ndarray) -> tuple[Observation, Past]:
    """What the policy reads at stored frames, and what memory has read before them."""
    shards, device = batches.shards, batches.builder.device
    vision = batches.builder.encode_images(shards.images(frames))
    texts = [shards.tasks[task] for task in shards.frame_task[frames]]
    observation = batches.builder.observation(vision, shards.frame_state[frames], texts, shards.frame_trace[frames])
    pooled = batches.pooled[torch.from_numpy(frames)].to(device)
    observation = replace(observation.with_frozen_features(pooled), earlier=batches.earlier(frames))
    return observation, batches.past_of(frames).to(device)


def decide(
    model: SigmaModel | FlowModel, batches: WindowBatches, frames: np.ndarray, batch: int, description: str
) -> dict[str, np.ndarray]:
    """The model's decisions at stored frames, one row each: its action and, with a telepathy path, factors and
    alignment."""
    parts: list[dict[str, np.ndarray]] = []
    shards, meta = batches.shards, batches.meta
    with torch.no_grad():
        for index in index_batches(len(frames), batch, description):
            rows = frames[index]
            passed = model.adapted_pass(*observe(batches, rows))
            addresses = [(int(shards.frame_episode[row]), int(shards.frame_step[row])) for row in rows]
            draws: dict[str, Any] = {"samples": meta["samples"], "seed": meta["seed"], "addresses": addresses}
            action = deterministic_action(
                meta["action"], model.policy, passed.encoded, meta["num_steps"], passed.steering, **draws
            )
            parts.append(_columns({"sigma_action": action[:, : shards.meta["horizon"]]}, passed.telepathy))
    return _joined(parts, len(frames), batch)


def decide_control(model: SigmaModel, batches: WindowBatches, windows: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """Factors and alignment of CHECK A's control at ``windows``: the same heads with LoRA and FiLM off."""
    parts: list[dict[str, np.ndarray]] = []
    with torch.no_grad(), lora.disabled(model.adapted):
        for index in index_batches(len(windows), batch, "evaluate: control"):
            observation, past = batches.observation(windows[index])
            parts.append(_columns({}, model.adapted_pass(observation, past, film=False).telepathy))
    return _joined(parts, len(windows), batch)


def decide_cleared(model: SigmaModel, batches: WindowBatches, windows: np.ndarray, batch: int) -> np.ndarray:
    """The model's action at ``windows`` [W, T, A] where memory and intent begin anew before every decision."""
    parts: list[dict[str, np.ndarray]] = []
    with torch.no_grad():
        for index in index_batches(len(windows), batch, "evaluate: memory cleared"):
            rows = windows[index]
            observation, _ = batches.observation(rows)
            passed = model.adapted_pass(observation, model.heads.path.start(observation.text))
            action = batches.decide(model.policy, passed.encoded, rows, batches.meta["action"], passed.steering)
            parts.append(_columns({"cleared_action": action}, None))
    return _joined(parts, len(windows), batch)["cleared_action"]


def _columns(tensors: dict[str, Tensor], telepathy: TelepathyState | None) -> dict[str, np.ndarray]:
    if telepathy is not None:
        tensors |= {"tau": telepathy.factors, "tau_l2": telepathy.factors.flatten(1).norm(dim=-1)}
        tensors |= {"sem_align": telepathy.alignment}
    return {name: value.float().cpu().numpy() for name, value in tensors.items()}


def _joined(parts: list[dict[str, np.ndarray]], rows: int, batch: int) -> dict[str, np.ndarray]:
    parts = gather_parts(parts, len(range(0, rows, batch)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def replay_windows(
    model: SigmaModel | FlowModel,
    batches: WindowBatches,
    windows: np.ndarray,
    batch: int,
    description: str,
    base_instructions: Sequence[str] = (),
) -> SigmaReplay:
    """Decisions at ``windows`` with the scores of every term that the adapter's risk reads; validation windows must be
    among them. ``base_instructions`` are those that are left to the base."""
    shards = batches.shards
    frames = stored_frames(batches, np.unique(shards.window_episode[windows]))
    decided = decide(model, batches, frames, batch, description)
    gate = measure_gate(batches, frames, decided, batch)
    calibration = calibrate_gate(model, batches, gate, decided, base_instructions)
    now = np.searchsorted(frames, shards.window_frame[windows])
    names = ("window", "episode", "step", "split", "base_action")
    columns = {name: batches.columns[name][windows] for name in names}
    columns |= {name: values[now] for name, values in decided.items()}
    scores = score_gate(model, batches, gate, calibration)
    columns |= {f"gate_{term}": score[now].astype(np.float32) for term, score in scores.items()}
    heads = {"sigma": describe_heads(model.heads)} if isinstance(model, SigmaModel) else {}
    return SigmaReplay(columns, heads, calibration)


def replay_sigma(
    batches: WindowBatches, folder: Path, *, batch: int, base_instructions: Sequence[str] = ()
) -> SigmaReplay:
    """Action, factors and alignment of every window, what the control's are there, and the action without memory.

    The last is NaN at train windows, whose errors nobody reads.
    """
    model = open_model(batches, folder)
    windows = np.arange(len(batches.split))
    replay = replay_windows(model, batches, windows, batch, "evaluate: Sigma", base_instructions)
    load_heads(model.heads, folder / FILE)
    replay.heads["control"] = describe_heads(model.heads)
    control = decide_control(model, batches, windows, batch)
    held_out = np.flatnonzero(batches.split != "train")
    cleared = np.full_like(replay.columns["sigma_action"], np.nan)
    cleared[held_out] = decide_cleared(model, batches, held_out, batch)
    replay.columns["cleared_action"] = cleared
    replay.columns.update({f"control_{name}": control[name] for name in ("tau_l2", "sem_align")})
    return replay
