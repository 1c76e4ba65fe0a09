"""Recorded episodes in memory: every frame decoded once, kept as uint8 at the policy's resolution.

Legend: F frames of all episodes, V cameras, S side of an image, D joints, T action horizon, E episodes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sigma.data.dataset.dataset import open_dataset
from sigma.data.dataset.statistics import feature_statistics
from sigma.data.dataset.video import decode
from sigma.shared.errors import SigmaError
from sigma.shared.progress import track
from sigma.shared.quantiles import Quantiles
from sigma.shared.resize import to_resolution
from sigma.shared.seeding import generator


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Frames of all episodes in order.

    Attributes:
        cameras: image feature names, V of them.
        images: uint8 ``[F, V, 3, S, S]``.
        states, actions: float32 ``[F, D]``, raw units.
        episode: int64 ``[F]``, the episode of each frame.
        ends: int64 ``[E]``, one past the last frame of each episode.
        instructions: the instruction of each episode.
    """

    cameras: tuple[str, ...]
    images: Tensor
    states: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    ends: np.ndarray
    instructions: tuple[str, ...]

    def action_chunks(self, frames: np.ndarray, horizon: int) -> np.ndarray:
        """The next ``horizon`` actions from each frame, ``[B, T, D]``; past the end the last action is repeated."""
        steps = frames[:, None] + np.arange(horizon)
        return self.actions[np.minimum(steps, self.ends[self.episode[frames]][:, None] - 1)]

    def texts(self, frames: np.ndarray) -> list[str]:
        """The instruction of each frame."""
        return [self.instructions[index] for index in self.episode[frames]]

    def statistics(self, frames: np.ndarray) -> dict[str, Quantiles]:
        """Exact quantiles of state and action over ``frames``; a joint that never moves raises :class:`SigmaError`."""
        quantiles = {}
        for feature, values in (("observation.state", self.states), ("action", self.actions)):
            columns = feature_statistics(values[frames])
            quantiles[feature] = Quantiles(np.asarray(columns["q01"]), np.asarray(columns["q99"]))
            if (constant := quantiles[feature].constant).any():
                joint = int(np.argmax(constant))
                raise SigmaError(f"{feature}: joint {joint} never moves in the demonstrations; it cannot be normalised")
        return quantiles


def load_demonstrations(folder: Path, resolution: int) -> Demonstrations:
    """Decode a LeRobotDataset v3.0 folder, with all of its cameras.

    Raises :class:`SigmaError` where an episode's rows or images are not as many as the metadata says.
    """
    dataset = open_dataset(folder)
    cameras = tuple(dataset.cameras)
    images = torch.zeros(dataset.frames, len(cameras), 3, resolution, resolution, dtype=torch.uint8)
    states, actions, instructions = [], [], []
    start = 0
    for episode in track(dataset.episodes, f"decoding {folder.name}", len(dataset.episodes)):
        rows = dataset.read(episode)
        if len(rows.state) != episode.length:
            raise SigmaError(f"{folder}: episode {episode.index} has {len(rows.state)} rows, not {episode.length}")
        for view, camera in enumerate(cameras):
            frames = [torch.from_numpy(image).permute(2, 0, 1) for _, image in decode(dataset, episode, camera)]
            if len(frames) != episode.length:
                raise SigmaError(f"{folder}: {camera}: episode {episode.index} has {len(frames)} images")
            images[start : start + episode.length, view] = to_resolution(torch.stack(frames), resolution)
        states.append(rows.state)
        actions.append(rows.action)
        instructions.append(dataset.tasks[int(rows.task[0])])
        start += episode.length
    lengths = [episode.length for episode in dataset.episodes]
    episodes = np.repeat([episode.index for episode in dataset.episodes], lengths)
    vectors = np.concatenate(states), np.concatenate(actions)
    return Demonstrations(cameras, images, *vectors, episodes, np.cumsum(lengths), tuple(instructions))


def split_frames(demonstrations: Demonstrations, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the training and of the held-out episodes: whole episodes, the same share of every instruction.

    Raises :class:`SigmaError` where an instruction has fewer than two episodes, so that none can be held out.
    """
    held_out = np.zeros(len(demonstrations.ends), dtype=bool)
    instructions = np.array(demonstrations.instructions)
    for instruction in sorted(set(demonstrations.instructions)):
        members = np.flatnonzero(instructions == instruction)
        if len(members) < 2:
            raise SigmaError(f"instruction {instruction!r} has a single episode; legal: at least two, to hold one out")
        count = max(1, round(fraction * len(members)))
        held_out[generator(seed, "held-out", instruction).permutation(members)[:count]] = True
    chosen = held_out[demonstrations.episode]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def sampling_weights(demonstrations: Demonstrations, frames: np.ndarray, balance: float) -> np.ndarray:
    """Probability of each frame: ∝ (frames of its instruction) to the power −``balance``.

    0 draws frames evenly, 1 draws instructions evenly, however long their episodes are.
    """
    _, group, counts = np.unique(demonstrations.texts(frames), return_inverse=True, return_counts=True)
    weights = counts[group] ** -float(balance)
    return weights / weights.sum()
