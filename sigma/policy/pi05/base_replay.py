"""Offline replay: the base and Sigma on the same recorded windows, in the same order, under the same noise.

Nothing later than a window's decision step is read for a prediction: its own frame and state, and pooled features of
earlier frames. Imported only by the stages that compute with a model.

Legend: W windows, F stored frames, P pooled vectors, d backbone width, T horizon, Tc the base's chunk size,
S samples, A action dim, D state dim.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow
import torch
from torch import Tensor

from sigma.compute.processes import gather_parts, local_shard
from sigma.data.shards import Shards
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.base import Base
from sigma.policy.pi05.base_action import sample_noise
from sigma.policy.pi05.description import ACTION, STATE, read_range
from sigma.policy.pi05.inputs import InputBuilder, Normalisation
from sigma.policy.pi05.observation import base_pass, pool_views
from sigma.shared.errors import SigmaError
from sigma.shared.progress import progress

if TYPE_CHECKING:
    from sigma.parameters.base import BaseParameters


@dataclass(frozen=True)
class BaseReplay:
    """The frozen base's actions at every window, and its pooled features of every frame."""

    columns: dict[str, np.ndarray]
    pooled: Tensor  # (F, P, d) float32, of a pass
    views: Tensor  # (F, 2V, d) float32, of the image tokens
    text: Tensor  # (tasks, d) float32
    token_rms: float  # root mean square of the tasks' token embeddings, the scale of a text token


def select_normalisation(which: str, base: Base, shards: Shards) -> Normalisation:
    """The quantiles that normalise states and actions: the checkpoint's, or those of the train episodes."""
    if which == "checkpoint":
        if base.statistics is None:
            raise SigmaError(
                "params.yaml: base.statistics: found checkpoint, but the base was published without statistics; "
                "legal here: dataset"
            )
        return Normalisation(base.statistics[STATE], base.statistics[ACTION])
    stored = shards.meta["statistics"]
    return Normalisation(*(read_range(stored[name], base.modes[name]) for name in (STATE, ACTION)))


def batches(total: int, size: int, description: str) -> Iterator[np.ndarray]:
    """Consecutive index batches under a progress meter; each of several processes gets its share of them, and
    :func:`~sigma.compute.processes.gather_parts` brings the results together."""
    shard = [np.arange(start, min(start + size, total)) for start in local_shard(range(0, total, size))]
    with progress(description, sum(map(len, shard))) as meter:
        for index in shard:
            yield index
            meter.advance(len(index))


def replay_base(
    base: Base, shards: Shards, normalisation: Normalisation, parameters: "BaseParameters", *, batch: int
) -> BaseReplay:
    """Run the frozen base on every stored frame once, and its action expert on every decision.

    A decision's actions come from the same pass that gives its frame's features.
    """
    horizon = shards.meta["horizon"]
    if base.chunk_size < horizon:
        raise SigmaError(
            f"params.yaml: window.horizon: found {horizon}; legal: at most the base's chunk size {base.chunk_size}"
        )
    builder = InputBuilder(base, normalisation)
    frames, windows = len(shards.frame_step), len(shards.window_step)
    decision_of = np.full(frames, -1)
    decision_of[shards.window_frame] = np.arange(windows)
    order = np.argsort(decision_of < 0, kind="stable")  # decisions first, so that a batch is all decisions or none
    parts: list[tuple[np.ndarray, Tensor, Tensor, np.ndarray | None]] = []  # rows, both features, actions of a batch
    for index in batches(frames, batch, "baseline"):
        rows = order[index]
        vision = builder.encode_images(shards.images(rows))
        texts = [shards.tasks[task] for task in shards.frame_task[rows]]
        with torch.no_grad():
            passed = base_pass(base.policy, builder.observation(vision, shards.frame_state[rows], texts))
            if (decision_of[rows] < 0).all():
                parts.append((rows, passed.pooled.cpu(), pool_views(vision).cpu(), None))
                continue
            addresses = [(int(shards.frame_episode[row]), int(shards.frame_step[row])) for row in rows]
            drawn = sample_noise(base.policy, parameters.samples, parameters.seed, addresses)
            noise = torch.cat([torch.zeros_like(drawn[:, :1]), drawn], dim=1).to(builder.device)
            drawn_actions = prefix.integrate(base.policy, passed.encoded, noise, base.num_steps)[:, :, :horizon]
        parts.append((rows, passed.pooled.cpu(), pool_views(vision).cpu(), drawn_actions.cpu().numpy()))
    parts = gather_parts(parts, len(range(0, frames, batch)))
    if not parts:
        raise SigmaError("data/shards: no frame is stored; nothing to evaluate")
    pooled, views = (torch.zeros(frames, *part.shape[1:]) for part in parts[0][1:3])
    zero = np.zeros((windows, horizon, base.action_dim), dtype=np.float32)
    samples = np.zeros((windows, parameters.samples, horizon, base.action_dim), dtype=np.float32)
    while parts:  # each part's memory is given back as soon as it is copied
        rows, of_pass, of_views, actions = parts.pop()
        pooled[rows], views[rows] = of_pass, of_views
        if actions is not None:
            chosen = decision_of[rows]
            here = chosen >= 0
            zero[chosen[here]] = actions[here, 0]
            samples[chosen[here]] = actions[here, 1:]
    deterministic = {"zero_noise": zero, "mean": samples.mean(axis=1), "sample": samples[:, 0]}[parameters.action]
    prompt = base.prompter(shards.tasks, np.zeros((len(shards.tasks), base.state_dim), dtype=np.float32))
    columns = {
        # By these the later stages join and group their tables.
        "window": np.arange(windows),
        "episode": shards.window_episode,
        "step": shards.window_step,
        "split": np.asarray(shards.window_split, dtype=str),
        "task": np.asarray([shards.tasks[index] for index in shards.window_task], dtype=str),
        "kept": shards.window_kept,
        "strided": shards.window_strided,
        "action": normalisation.action.normalise(shards.window_action[:, :horizon]),
        "valid": shards.window_valid[:, :horizon],
        "hold": normalisation.action.normalise(shards.frame_state[shards.window_frame]),
        "base_action": deterministic,
        "base_zero_noise": zero,
        "base_samples": samples,
    }
    with torch.no_grad():
        embedded = prefix.text_embeddings(base.policy, prompt.tokens.to(builder.device)).float()
    token_rms = embedded[prompt.mask.to(builder.device)].square().mean().sqrt().item()
    return BaseReplay(columns, pooled, views, base.text_embedding_mean(prompt).cpu(), token_rms)


def frame_pictures(shards: Shards) -> pyarrow.Table:
    """JPEG pictures of the decision frames of validation and test windows, for the report."""
    from PIL import Image

    rows = []
    for window in np.flatnonzero(np.asarray(shards.window_split) != "train"):
        pictures = shards.images(shards.window_frame[window : window + 1])[0]
        for camera, picture in zip(shards.meta["cameras"], pictures, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, format="JPEG", quality=90)
            rows.append({"window": int(window), "camera": camera, "jpeg": buffer.getvalue()})
    return pyarrow.Table.from_pylist(rows)
