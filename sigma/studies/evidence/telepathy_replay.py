"""Sigma's inner states on recorded windows, and its corrections along whole episodes. Computes with the model.

Legend: W windows, w inner width, K factors, E factor dim, P pooled vectors, d backbone width, n decisions.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.adapter.calibration import read_reference
from sigma.policy.adapter.measures import Measures, distances, rms
from sigma.policy.model.telepathy import TelepathyState
from sigma.policy.model.vla import Proposal, SigmaTelepathyVLA
from sigma.policy.pi05.base_replay import batches
from sigma.policy.pi05.inputs import gather_history
from sigma.shared.errors import SigmaError
from sigma.training.batches import WindowBatches

# Two passes of one model differ by less than this between batch shapes; another model's factors differ by more.
SAME_MODEL = 1e-3


@dataclass(frozen=True)
class Trace:
    """One episode's decisions at rising control steps: correction (rms, normalised units) and scale by span."""

    steps: np.ndarray  # [n]
    corrections: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]


def _addresses(episodes: np.ndarray, steps: np.ndarray) -> list[tuple[int, int]]:
    return [(int(episode), int(step)) for episode, step in zip(episodes, steps, strict=True)]


def _telepathy(proposal: Proposal) -> TelepathyState:
    if proposal.telepathy is None:
        raise SigmaError(
            "models/sigma: a residual MLP has no telepathy to look into; legal: a model with telepathy heads"
        )
    return proposal.telepathy


def inner_states(
    vla: SigmaTelepathyVLA, material: WindowBatches, factors: np.ndarray, batch: int
) -> dict[str, np.ndarray]:
    """``tau [W, K·E]``, ``memory [W, w]`` and ``intent [W, w]`` of every window.

    Raises :class:`SigmaError` where τ is not ``factors [W, K, E]``, the one in ``sigma.parquet``: the model is another.
    """
    shards = material.shards
    parts = []
    for rows in batches(len(material.split), batch, "diagnose: inner states"):
        addresses = _addresses(shards.window_episode[rows], shards.window_step[rows])
        telepathy = _telepathy(vla.propose(material.observation(rows), addresses))
        inner = (telepathy.factors, telepathy.memory, telepathy.intent)
        parts.append([values.float().flatten(1).cpu().numpy() for values in inner])
    tau, memory, intent = (np.concatenate(values) for values in zip(*parts, strict=True))
    if tau.shape != (len(factors), factors[0].size) or not np.allclose(
        tau, factors.reshape(tau.shape), rtol=SAME_MODEL, atol=SAME_MODEL
    ):
        raise SigmaError("models/sigma: its factors are not those of data/predictions/sigma.parquet; run `dvc repro`")
    return {"tau": tau, "memory": memory, "intent": intent}


def history_features(material: WindowBatches) -> np.ndarray:
    """Pooled frozen features of all M frames that a window may read, ``[W, M·P·d]``; zero before the episode."""
    frames = material.shards.window_frames
    pooled = material.pooled[torch.from_numpy(np.maximum(frames, 0))].numpy()
    return (pooled * (frames >= 0)[:, :, None, None]).reshape(len(frames), -1)


def _complete_frames(material: WindowBatches, episode: int) -> np.ndarray:
    """Frame ids ``[n, M]`` of this episode's stored frames whose whole history is stored too; −1 before its start."""
    shards, meta = material.shards, material.shards.meta
    rows = np.flatnonzero(shards.frame_episode == episode)
    at = {int(step): int(row) for step, row in zip(shards.frame_step[rows], rows, strict=True)}
    frames = []
    for step in sorted(at):
        steps = [step - back * meta["history_stride"] for back in reversed(range(meta["history"]))]
        if all(earlier < 0 or earlier in at for earlier in steps):
            frames.append([at.get(earlier, -1) for earlier in steps])
    return np.array(frames)


def trace(
    vla: SigmaTelepathyVLA,
    material: WindowBatches,
    adapter: SigmaTelepathyAdapter,
    calibration: Path,
    episode: int,
) -> Trace:
    """What Sigma would do at every stored frame of an episode: finer than the held-out windows, which do not overlap.

    The measures of the adapter's risk are computed as at run time.
    """
    shards = material.shards
    frames = _complete_frames(material, episode)
    now = frames[:, -1]
    vision = material.builder.encode_images(shards.images(now))
    history, present = gather_history(material.pooled, frames)
    texts = [shards.tasks[task] for task in shards.frame_task[now]]
    states, motion = shards.frame_state[now], shards.frame_trace[now]
    observation = material.builder.observation(vision, states, texts, history, present, motion)
    proposal = vla.propose(observation, _addresses(shards.frame_episode[now], shards.frame_step[now]))
    corrections = {span: correction.float().cpu().numpy() for span, correction in proposal.corrections.items()}
    telepathy = _telepathy(proposal)
    reference = read_reference(calibration)
    features = material.pooled[torch.from_numpy(now)].flatten(1).numpy()
    execution = adapter.execute(
        proposal.base.float().cpu().numpy(),
        corrections,
        Measures(
            telepathy_factors=telepathy.factors.float().cpu().numpy(),
            alignment=telepathy.alignment.float().cpu().numpy(),
            hold=material.builder.normalisation.action.normalise(shards.frame_state[now]),
            **distances(features, observation.text.cpu().numpy(), reference),
        ),
    )
    sizes = {span: rms(correction) for span, correction in corrections.items()}
    return Trace(shards.frame_step[now], sizes, execution.scales)
