"""Evaluation of recorded windows: ours in batches with one prefix for all draws, LeRobot's policy window by window.

Legend: W windows, K draws a window, Tc the base's chunk size, A action dim, Ap its padded size, T horizon.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sigma.data.shards import Shards
from sigma.policy.pi05.base_action import sample_noise
from sigma.policy.pi05.base_replay import BaseReplay, replay_base
from sigma.shared.seeding import generator
from sigma.studies.benchmark.lerobot_policy import policy_batch, preprocessor
from sigma.studies.benchmark.measure import Measured, Side, compare
from sigma.studies.benchmark.project import Project, lerobot_kernels


def chosen_windows(shards: Shards, count: int) -> np.ndarray:
    """Row numbers of windows of whole episodes, so that frames that windows share stay shared.

    Episodes are drawn with a fixed seed until there are ``count`` windows.
    """
    episodes = generator(0, "benchmark", "evaluation").permutation(np.unique(shards.window_episode))
    windows = np.cumsum([np.count_nonzero(shards.window_episode == episode) for episode in episodes])
    chosen = episodes[: np.searchsorted(windows, count) + 1]
    return np.flatnonzero(np.isin(shards.window_episode, chosen))


def take(shards: Shards, windows: np.ndarray) -> Shards:
    """The shards with these windows alone and the frames that they and memory see; images are read into memory."""
    read = [frames for episode, frames in shards.memory_frames().items() if episode in shards.window_episode[windows]]
    frames = np.unique(np.concatenate([shards.window_frame[windows], *read]))
    rows = {name: getattr(shards, name)[frames] for name in vars(shards) if name.startswith("frame_")}
    kept = {name: getattr(shards, name)[windows] for name in vars(shards) if name.startswith("window_")}
    kept["window_frame"] = np.searchsorted(frames, shards.window_frame[windows])
    return replace(shards, **rows, **kept, _images=(shards.images(frames),), _first_frame=np.array([0, len(frames)]))


class WindowByWindow:
    """The frozen base by LeRobot's own method, one window after the other, under the noise of the baseline stage."""

    def __init__(self, project: Project, shards: Shards):
        self.base, self.shards, self.samples = project.base(), shards, project.parameters.base.samples
        self.seed, self.horizon = project.features()["seed"], shards.meta["horizon"]
        self.process = preprocessor(self.base, project.normalisation())

    def noise(self, window: int) -> Tensor:
        """(K, Tc, Ap): zero noise, then the seeded draws of this decision."""
        address = (int(self.shards.window_episode[window]), int(self.shards.window_step[window]))
        config = self.base.policy.config
        zero = torch.zeros(1, config.chunk_size, config.max_action_dim)
        drawn = torch.cat([zero, sample_noise(self.base.policy, self.samples, self.seed, [address])[0]])
        return drawn.to(next(self.base.policy.parameters()).device)

    def predict(self, window: int) -> np.ndarray:
        """Normalised actions (K, T, A) of one window, all of its draws in one call."""
        noise = self.noise(window)
        batch = policy_batch(self.process, self.base, self.shards, np.array([window]))
        repeated = {
            name: value.repeat_interleave(len(noise), dim=0) if isinstance(value, Tensor) and value.ndim else value
            for name, value in batch.items()
        }
        chunk = self.base.policy.predict_action_chunk(repeated, noise=noise)
        return chunk[:, : self.horizon].float().cpu().numpy()

    @lerobot_kernels()
    def predict_all(self) -> list[np.ndarray]:
        """The actions of every window."""
        return [self.predict(window) for window in range(len(self.shards.window_step))]


def base_replay(project: Project, shards: Shards) -> Callable[[], BaseReplay]:
    """What the baseline stage does with these windows, on a base of its own."""
    base, normalisation = project.base(), project.normalisation()
    section, batch = project.parameters.base, project.parameters.machine.batch
    return lambda: replay_base(base, shards, normalisation, section, batch=batch)


def measure_evaluation(project: Project) -> Measured:
    """A window with zero noise and ``base.samples`` draws; ours also makes the features that Sigma's memory needs."""
    whole = project.shards()
    shards = take(whole, chosen_windows(whole, project.settings.evaluation_windows))
    peer, count = WindowByWindow(project, shards), len(shards.window_step)
    both = {"windows": count, "samples": peer.samples}
    own = Side(base_replay(project, shards), count, both | {"batch": project.parameters.machine.batch})
    return compare(own, Side(peer.predict_all, count, both), project.settings)
