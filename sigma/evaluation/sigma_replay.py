"""Offline replay of Sigma and of its control, and the calibration of the adapter on validation windows.

The control is CHECK A's: the same heads with adapters and FiLM off. Imported only by the stage that computes.

Legend: W windows, P pooled vectors, d backbone width, T horizon, A action dim.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigma.errors import SigmaError
from sigma.evaluation.replay import batches
from sigma.policy.adapter import BRANCHES
from sigma.policy.calibration import calibrate, feature_distance, reference_set, text_distance
from sigma.policy.heads import FILE, describe_heads, load_heads
from sigma.policy.model_folder import load_model, read_config
from sigma.training.material import Material, adapted_actions


@dataclass(frozen=True)
class SigmaReplay:
    """Columns of ``sigma.parquet``, and what the heads were that each pass loaded."""

    columns: dict[str, np.ndarray]
    heads: dict[str, dict[str, Any]]
    features: np.ndarray  # (W, P·d) pooled frozen features of each decision
    texts: np.ndarray  # (W, d)


def replay_sigma(material: Material, folder: Path, *, batch: int) -> SigmaReplay:
    """Residuals, factors and alignment of every window, and the control's norm and alignment beside them."""
    config = read_config(folder)
    if config["dataset"] != material.shards.meta["dataset"] or config["base"]["digest"] != material.meta["base_digest"]:
        raise SigmaError(f"{folder}: trained on another dataset or base than data/ holds; run `dvc repro`")
    for key, now in (("normalisation", "normalisation"), ("base_action", "action"), ("seed", "seed")):
        if config[key] != material.meta[now]:
            raise SigmaError(f"{folder}: trained with another {key} than data/features holds; run `dvc repro`")
    model = load_model(material.base.policy, folder, config, folder / FILE)
    parts: dict[str, list[np.ndarray]] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        parts.setdefault(name, []).append(value.float().cpu().numpy())

    def base_of(rows: np.ndarray) -> torch.Tensor:
        return adapted_actions(model, material, rows, len(rows)) if adapted else material.base_action(rows)

    adapted, windows = config["branch"] == "adapted", len(material.split)
    heads = {"sigma": describe_heads(model.heads)}
    with torch.no_grad():
        for rows in batches(windows, batch, "evaluate: Sigma"):
            observation, base = material.observation(rows), base_of(rows)
            decision = model(observation, base)
            keep("adapted_action", base)
            for branch in BRANCHES:
                keep(f"residual_{branch}", getattr(decision.residuals, branch))
            keep("tau", decision.thought.factors)
            keep("tau_l2", decision.thought.factors.flatten(1).norm(dim=-1))
            keep("sem_align", decision.alignment)
            keep("text", observation.text)
    load_heads(model.heads, folder / FILE)
    heads["control"] = describe_heads(model.heads)
    with torch.no_grad():
        for rows in batches(windows, batch, "evaluate: control"):
            control = model(material.observation(rows), base_of(rows), adapters=False, film=False)
            keep("control_tau_l2", control.thought.factors.flatten(1).norm(dim=-1))
            keep("control_sem_align", control.alignment)
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    texts = columns.pop("text")
    shards = material.shards
    now = shards.window_frames[:, -1]
    features = material.pooled[torch.from_numpy(now)].flatten(1).numpy()
    columns = {name: material.columns[name] for name in ("window", "episode", "step", "split", "base_action")} | columns
    chosen = material.split == "validation"
    reference = reference_set(features[chosen], columns["episode"][chosen], np.unique(texts[chosen], axis=0))
    columns["feature_distance"] = feature_distance(
        features,
        reference["features"],
        episodes=columns["episode"],
        calibration_episodes=reference["episodes"],
    ).astype(np.float32)
    columns["text_distance"] = text_distance(texts, reference["texts"]).astype(np.float32)
    return SigmaReplay(columns, heads, features, texts)


def calibrate_windows(material: Material, replay: SigmaReplay) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The adapter's quantiles and reference set, from validation windows alone."""
    columns = replay.columns
    chosen = material.split == "validation"
    shift = columns["adapted_action"] - columns["base_action"]
    corrections = {
        branch: (columns[f"residual_{branch}"] + shift[:, : columns[f"residual_{branch}"].shape[1]])[chosen]
        for branch in BRANCHES
    }
    shards = material.shards
    hold = material.builder.normalisation.action.normalise(shards.frame_state[shards.window_frames[:, -1]])
    calibration = calibrate(
        base_action=columns["base_action"][chosen],
        hold=hold[chosen],
        corrections=corrections,
        tau_l2=columns["tau_l2"][chosen],
        alignment=columns["sem_align"][chosen],
        feature_distance=columns["feature_distance"][chosen],
        episodes=columns["episode"][chosen],
        instructions=sorted({shards.tasks[task] for task in shards.window_task[chosen]}),
    )
    reference = reference_set(
        replay.features[chosen], columns["episode"][chosen], np.unique(replay.texts[chosen], axis=0)
    )
    return calibration, reference
