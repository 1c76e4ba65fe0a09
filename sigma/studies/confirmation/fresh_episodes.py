"""Trained arms on a fresh dataset, with what they are judged by (calibration, statistics, windows) left as it was.

Nothing of the fresh episodes is trained, selected or calibrated on. Imported only by the command that computes.

Legend: W windows, n steps of a span, A action dim.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigma.compute.workers import Workers
from sigma.data.dataset.dataset import open_dataset
from sigma.data.shards import Shards
from sigma.data.windows.candidates import Filter, candidate_windows
from sigma.data.windows.cutting import Protocol
from sigma.data.windows.packing import StoredCameras, write_shards
from sigma.evaluation.predictions import stored_measures
from sigma.evaluation.replay.sigma_replay import decide, hold_action, open_model
from sigma.parameters.base import BaseParameters
from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import read_calibration, read_reference
from sigma.policy.adapter.measures import distances
from sigma.policy.model import lora
from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.base_replay import replay_base
from sigma.policy.pi05.inputs import InputBuilder, Normalisation
from sigma.shared.errors import SigmaError
from sigma.shared.spans import stored_residuals
from sigma.studies.ablation.arm_replay import replay_flow_arm
from sigma.studies.arm_folder import CALIBRATION, MODEL
from sigma.training.batches import WindowBatches
from sigma.training.flow import FlowModel

Actions = dict[str, np.ndarray]  # span -> executed actions (W, n, A), normalised


def fresh_shards(dataset_folder: Path, folder: Path, meta: Mapping[str, Any], workers: Workers) -> Shards:
    """Cut the dataset into held-out windows by the protocol of ``meta`` (of ``data/shards``) and write them to
    ``folder``; every episode is a test episode.

    Raises :class:`SigmaError` where the dataset has other joints, another rate or fewer cameras.
    """
    dataset = open_dataset(dataset_folder)
    for key, actual in (("joint_names", list(dataset.joint_names)), ("fps", dataset.fps)):
        if actual != meta[key]:
            raise SigmaError(f"{dataset_folder}: {key}: found {actual}; legal: {meta[key]}, as in data/shards")
    for camera in meta["dataset_cameras"]:
        if camera not in dataset.cameras:
            raise SigmaError(f"{dataset_folder}: no camera {camera!r}; it has {', '.join(dataset.cameras)}")
    names = ("horizon", "chunk_size", "history", "history_stride", "train_stride", "eval_stride", "trace")
    protocol = Protocol(**{name: meta[name] for name in names})
    test = [episode.index for episode in dataset.episodes]
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": test}
    windows = candidate_windows(dataset, splits, protocol, Filter(0.0, 0.0), meta["statistics"])
    view = StoredCameras(tuple(meta["dataset_cameras"]), meta["resolution"])
    fresh_meta = {**meta, "splits": splits, "tasks": list(dataset.tasks)}
    write_shards(folder, dataset, view, protocol, windows, fresh_meta, 64 * 2**20, workers)
    return Shards.open(folder)


def fresh_material(
    shards: Shards,
    reference: dict[str, Any],
    features: dict[str, Any],
    base: BaseParameters,
    *,
    batch: int,
    device: str,
) -> WindowBatches:
    """What the frozen base makes of the fresh windows, in the quantiles and under the noise of ``features``.

    ``reference`` is ``data/base.json``, ``features`` ``data/features/meta.json``.
    """
    if features["base_digest"] != reference["digest"]:
        raise SigmaError("data/features/meta.json: belongs to another base than data/base.json; run `dvc repro`")
    policy = load_base(reference, device=device, dtype=features["dtype"])
    normalisation = Normalisation.from_json(features["normalisation"])
    replay = replay_base(policy, shards, normalisation, base, batch=batch)
    builder = InputBuilder(policy, normalisation)
    return WindowBatches(policy, shards, builder, features, replay.pooled, replay.columns, "", features["dtype"])


def fresh_base(material: WindowBatches) -> WindowBatches:
    """The same windows on an untouched base, because LoRA is inserted into the one it is put on."""
    base = load_base(material.base.reference, device=str(material.builder.device), dtype=material.dtype)
    return replace(material, base=base, builder=InputBuilder(base, material.builder.normalisation), vision={})


def residual_actions(
    material: WindowBatches, folder: Path, settings: Mapping[str, Any], *, name: str, batch: int
) -> tuple[Actions, np.ndarray]:
    """What the residual arm of ``folder`` executes at every window under its own calibration and the adapter's
    ``settings``, and the plan's scales (W,)."""
    calibration = folder / CALIBRATION
    model, branch = open_model(material, folder / MODEL)
    windows = np.arange(len(material.split))
    columns = decide(model, material, branch, windows, batch, f"{name}: predictions")
    features = material.pooled[torch.from_numpy(material.shards.window_frames[:, -1])].flatten(1).numpy()
    columns |= distances(features, columns["text"], read_reference(calibration))
    adapter = SigmaTelepathyAdapter(**settings, calibration=read_calibration(calibration))
    execution = adapter.execute(
        material.columns["base_action"],
        stored_residuals(columns),
        stored_measures(columns, hold_action(material, windows)),
        adapted_action=columns["adapted_action"],
    )
    return execution.actions, execution.scales["trajectory"]


def tuned_actions(material: WindowBatches, folder: Path, *, name: str, batch: int) -> dict[str, Actions]:
    """What plain LoRA executes, by decoding: ``NAME_sample``, ``NAME_zero_noise``, ``NAME_mean``."""
    model = FlowModel(lora.load(material.base.policy, folder / MODEL))
    return replay_flow_arm(material, model, name, batch=batch).variants
