"""Offline replay of Sigma and of its control, and the calibration of the adapter on validation windows.

The control is CHECK A's: the same heads with adapters and FiLM off. Imported only by the stages that compute.

Legend: W windows, P pooled vectors, d backbone width, T horizon, A action dim, K factors, E factor dim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigma.compute.processes import gather_parts
from sigma.policy.adapter.calibration import calibrate, reference_set
from sigma.policy.adapter.measures import feature_distance, text_distance
from sigma.policy.model.decision import FactorSwap, SigmaModel
from sigma.policy.model.heads import FILE, describe_heads, load_heads
from sigma.policy.model.model_folder import load_model, read_config
from sigma.policy.pi05.base_replay import batches
from sigma.shared.errors import SigmaError
from sigma.shared.spans import corrections, stored_residuals
from sigma.training.batches import WindowBatches


@dataclass(frozen=True)
class SigmaReplay:
    """Sigma's columns of ``sigma.parquet`` for W windows, a description of the heads that each pass loaded, and the
    validation windows' features, episodes and texts, from which distances are measured."""

    columns: dict[str, np.ndarray]
    heads: dict[str, dict[str, Any]]
    reference: dict[str, np.ndarray]


def open_model(material: WindowBatches, folder: Path) -> tuple[SigmaModel, str]:
    """The model that finetune wrote, and its base branch; one of other inputs than the material's is refused."""
    config = read_config(folder)
    if config["dataset"] != material.shards.meta["dataset"] or config["base"]["digest"] != material.meta["base_digest"]:
        raise SigmaError(f"{folder}: trained on another dataset or base than data/ holds; run `dvc repro`")
    for key, now in (("normalisation", "normalisation"), ("base_action", "action"), ("seed", "seed")):
        if config[key] != material.meta[now]:
            raise SigmaError(f"{folder}: trained with another {key} than data/features holds; run `dvc repro`")
    return load_model(material.base.policy, folder, config, folder / FILE), config["branch"]


def decide(
    model: SigmaModel,
    material: WindowBatches,
    branch: str,
    windows: np.ndarray,
    batch: int,
    description: str,
    *,
    swap: Callable[[np.ndarray], FactorSwap] | None = None,
    **switches: bool,
) -> dict[str, np.ndarray]:
    """The model's decisions at ``windows``, one row each: residuals, the action they correct, factors, alignment.

    Args:
        swap: gives the factors that take the place of the model's own at some of the windows.
        switches: ``adapters`` and ``film`` of :meth:`SigmaModel.forward`.
    """
    parts: list[dict[str, np.ndarray]] = []
    with torch.no_grad():
        for index in batches(len(windows), batch, description):
            rows = windows[index]
            observation = material.observation(rows)
            swapped = swap(rows) if swap else None
            passed = model.adapted_pass(observation, swap=swapped, cache=branch == "adapted")
            base = material.base_action(rows)
            if branch == "adapted":
                base = material.decide(model.policy, passed.encoded, rows, material.meta["action"])
            decision = model(observation, base, swap=swapped, passed=None if switches else passed, **switches)
            columns = {"adapted_action": base, "text": observation.text}
            columns |= {f"residual_{span}": residual for span, residual in decision.residuals.items()}
            if (telepathy := decision.telepathy) is not None:
                columns |= {"tau": telepathy.factors, "tau_l2": telepathy.factors.flatten(1).norm(dim=-1)}
                columns |= {"tau_anticipated": telepathy.anticipated, "sem_align": telepathy.alignment}
            parts.append({name: value.float().cpu().numpy() for name, value in columns.items()})
    parts = gather_parts(parts, len(range(0, len(windows), batch)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def replay_windows(
    model: SigmaModel, material: WindowBatches, branch: str, windows: np.ndarray, batch: int, description: str
) -> SigmaReplay:
    """Decisions at ``windows`` with the measures that the adapter's risk needs; validation windows must be among them.

    The feature distance of a window is measured from the validation windows of other episodes.
    """
    columns = decide(model, material, branch, windows, batch, description)
    texts = columns.pop("text")
    features = material.pooled[torch.from_numpy(material.shards.window_frames[windows, -1])].flatten(1).numpy()
    identity = {name: material.columns[name][windows] for name in ("window", "episode", "step", "split")}
    columns = identity | {"base_action": material.columns["base_action"][windows]} | columns
    chosen = columns["split"] == "validation"
    reference = reference_set(features[chosen], columns["episode"][chosen], np.unique(texts[chosen], axis=0))
    distances = feature_distance(
        features, reference["features"], episodes=columns["episode"], calibration_episodes=reference["episodes"]
    )
    columns["feature_distance"] = distances.astype(np.float32)
    columns["text_distance"] = text_distance(texts, reference["texts"]).astype(np.float32)
    return SigmaReplay(columns, {"sigma": describe_heads(model.heads)}, reference)


def replay_sigma(material: WindowBatches, folder: Path, *, batch: int) -> SigmaReplay:
    """Residuals, factors and alignment of every window, and the control's norm and alignment of the same windows."""
    model, branch = open_model(material, folder)
    if model.heads.sizes.architecture != "telepathy":
        raise SigmaError(f"{folder}: a residual {model.heads.sizes.architecture} has no control; run finetune again")
    windows = np.arange(len(material.split))
    replay = replay_windows(model, material, branch, windows, batch, "evaluate: Sigma")
    replay.columns.pop("tau_anticipated")
    load_heads(model.heads, folder / FILE)
    replay.heads["control"] = describe_heads(model.heads)
    control = decide(model, material, branch, windows, batch, "evaluate: control", adapters=False, film=False)
    replay.columns.update({f"control_{name}": control[name] for name in ("tau_l2", "sem_align")})
    return replay


def hold_action(material: WindowBatches, windows: np.ndarray) -> np.ndarray:
    """The state now as a normalised action ``[W, A]``: what holding still would command."""
    shards = material.shards
    return material.builder.normalisation.action.normalise(shards.frame_state[shards.window_frames[windows, -1]])


def stored_corrections(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What scale 1 adds to the frozen base's action, ``(W, n, A)`` by span, from the columns of Sigma's table."""
    return corrections(columns["base_action"], stored_residuals(columns), columns["adapted_action"])


def calibrate_windows(material: WindowBatches, replay: SigmaReplay) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The adapter's quantiles and reference set, from validation windows alone."""
    columns = replay.columns
    chosen = columns["split"] == "validation"
    windows, shards = columns["window"][chosen], material.shards
    calibration = calibrate(
        base_action=columns["base_action"][chosen],
        hold=hold_action(material, windows),
        corrections={span: correction[chosen] for span, correction in stored_corrections(columns).items()},
        tau_l2=columns["tau_l2"][chosen] if "tau_l2" in columns else None,
        alignment=columns["sem_align"][chosen] if "sem_align" in columns else None,
        feature_distance=columns["feature_distance"][chosen],
        episodes=columns["episode"][chosen],
        instructions=sorted({shards.tasks[task] for task in shards.window_task[windows]}),
    )
    return calibration, replay.reference
