"""Evaluation of recorded windows: ours in batches with one prefix for all draws, against LeRobot's policy by windows.

Legend: W windows, F frames, K draws a window, Tc the base's chunk size, A action dim, Ap its padded size, T horizon.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigma.data.shards import Shards
from sigma.evaluation.replay.sigma_replay import decide, open_model
from sigma.policy.lerobot.configuration_sigma import AdapterConfig
from sigma.policy.lerobot.modeling_sigma import TRACE, SigmaPolicy
from sigma.policy.lerobot.policy_folder import check_parts, policy_config, write_parts
from sigma.policy.pi05 import base_replay as replay
from sigma.policy.pi05 import prefix
from sigma.policy.pi05.base_action import sample_noise
from sigma.policy.pi05.base_replay import BaseReplay, replay_base
from sigma.shared.seeding import generator
from sigma.studies.benchmark.kept_record import Measured
from sigma.studies.benchmark.lerobot_policy import policy_batch, preprocessor, raw_batch
from sigma.studies.benchmark.measure import alternate, seconds_each, split
from sigma.studies.benchmark.models import (
    as_lerobot,
    base_of,
    device_of,
    features_of,
    material_of,
    normalisation_of,
    unfilled,
)
from sigma.studies.benchmark.project import Project

BATCHES = (4, 8, 16, 32, 64)


def chosen_windows(shards: Shards, count: int) -> np.ndarray:
    """Row numbers of windows of whole episodes, drawn with a fixed seed until there are ``count``: frames that windows
    share stay shared."""
    found: list[np.ndarray] = []
    for episode in generator(0, "benchmark", "evaluation").permutation(np.unique(shards.window_episode)):
        if sum(map(len, found)) >= count:
            break
        found.append(np.flatnonzero(shards.window_episode == episode))
    return np.sort(np.concatenate(found))


def take(shards: Shards, windows: np.ndarray) -> Shards:
    """The shards with these windows alone and the frames that they observe; images are read into memory."""
    old = shards.window_frames[windows]
    frames = np.unique(old[old >= 0])
    rows = {name: getattr(shards, name)[frames] for name in vars(shards) if name.startswith("frame_")}
    kept = {name: getattr(shards, name)[windows] for name in vars(shards) if name.startswith("window_")}
    kept["window_frames"] = np.where(old >= 0, np.searchsorted(frames, old), -1)
    return replace(shards, **rows, **kept, _images=(shards.images(frames),), _first_frame=np.array([0, len(frames)]))


class WindowByWindow:
    """The frozen base by LeRobot's own method, one window after the other, under the noise of the baseline stage."""

    def __init__(self, project: Project, shards: Shards, samples: int):
        self.base, self.shards, self.samples = base_of(project), shards, samples
        self.seed, self.horizon = features_of(project)["seed"], shards.meta["horizon"]
        self.process = preprocessor(self.base, normalisation_of(project))

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

    def predict_by_draw(self, window: int) -> np.ndarray:
        """The same, one call a draw; the window is read and processed once."""
        batch = policy_batch(self.process, self.base, self.shards, np.array([window]))
        calls = [self.base.policy.predict_action_chunk(batch, noise=one[None]) for one in self.noise(window)]
        return torch.cat(calls)[:, : self.horizon].float().cpu().numpy()


class SigmaByWindow:
    """The trained Sigma as a LeRobot policy, one window after the other; each begins an episode.

    What it spends on memory does not depend on what that holds.
    """

    def __init__(self, project: Project, shards: Shards):
        root = project.root
        parts = (root / "models/sigma", root / "models/adapter_calibration.json", root / "data/base.json")
        config, base = check_parts(*parts)
        adapter = AdapterConfig(**project.parameters.adapter.model_dump())
        made = policy_config(config, base, adapter=adapter, limits={})
        made.device = device_of(project).type
        with tempfile.TemporaryDirectory(prefix="sigma-benchmark-") as name:
            model, calibration, reference = parts
            write_parts(Path(name), model=model, calibration=calibration, base=reference, config=made)
            self.policy = SigmaPolicy.from_pretrained(name, config=made)
        self.base, self.shards = base_of(project), shards

    def predict(self, window: int) -> np.ndarray:
        """The executed plan (T, A) of one window, in the robot's units."""
        batch = raw_batch(self.base, self.shards, np.array([window]))
        now = self.shards.window_frames[window, -1]
        states = np.concatenate([self.shards.frame_trace[now], self.shards.frame_state[now][None]])
        self.policy.reset()
        return self.policy.predict_action_chunk(batch | {TRACE: torch.from_numpy(states[None])})[0].numpy()


def _measured(
    project: Project,
    own: Callable[[], Any],
    peer: Callable[[int], Any],
    windows: np.ndarray,
    told: Mapping[str, Any],
) -> Measured:
    def one_by_one() -> None:
        for window in windows:
            peer(int(window))

    def rate(work: Callable[[], Any]) -> Callable[[], float]:
        def measure() -> float:
            started = time.perf_counter()
            work()
            return len(windows) / (time.perf_counter() - started)

        return measure

    values = alternate({"own": rate(own), "peer": rate(as_lerobot(one_by_one))}, project.effort)
    each = {
        name: {"windows": len(windows), "seconds_a_window": median(1 / one for one in found)}
        for name, found in values.items()
    }
    return Measured(values["own"], values["peer"], {**each["own"], **told}, each["peer"])


def base_replay(project: Project, shards: Shards, samples: int) -> Callable[..., BaseReplay]:
    """What the baseline stage does with these windows, on a base of its own; takes another ``batch`` if given one."""
    base, normalisation, usual = base_of(project), normalisation_of(project), project.parameters.machine.batch
    parameters = project.parameters.base.model_copy(update={"samples": samples})
    return lambda batch=usual: replay_base(base, shards, normalisation, parameters, batch=batch)


def _by_batch(work: Callable[..., Any], windows: int) -> dict[str, float]:
    """Windows a second of our side by frames a forward pass, and of the usual number without filling new memory."""
    found = {str(batch): windows / seconds_each(lambda batch=batch: work(batch=batch), 0) for batch in BATCHES}
    return {**found, "usual, memory not filled": windows / seconds_each(unfilled(work), 0)}


def _evaluation_base(project: Project, by_draw: bool) -> Measured:
    whole = project.shards()
    shards = take(whole, chosen_windows(whole, project.settings.evaluation.windows))
    samples = project.parameters.base.samples
    own, peer = base_replay(project, shards, samples), WindowByWindow(project, shards, samples)
    places = [(prefix, "vision_tokens", "vision"), (replay, "base_pass", "prefix"), (prefix, "integrate", "actions")]
    told = {"samples": samples, "frames": len(shards.frame_step), "batch": project.parameters.machine.batch}
    told["split"] = split(own, places, "reading, prompts and noise")
    told["by_batch"] = _by_batch(own, len(shards.window_step))
    return _measured(
        project, own, peer.predict_by_draw if by_draw else peer.predict, np.arange(len(shards.window_step)), told
    )


def evaluation_base(project: Project) -> Measured:
    """Windows a second with zero noise and ``base.samples`` draws; ours makes the history's features too."""
    return _evaluation_base(project, by_draw=False)


def evaluation_base_by_draw(project: Project) -> Measured:
    """The same against a call a draw."""
    return _evaluation_base(project, by_draw=True)


def _evaluation_sigma(project: Project, *, with_base: bool) -> Measured:
    material, batch = material_of(project), project.parameters.machine.batch
    model, branch = open_model(material, project.root / "models/sigma")
    windows = chosen_windows(material.shards, project.settings.evaluation.windows)
    # The least that the replay of the base allows: the deterministic action and one draw.
    base = base_replay(project, take(material.shards, windows), 1)

    def own() -> None:
        if with_base:
            base()
        decide(model, material, branch, windows, batch, "benchmark")

    places = [
        (prefix, "vision_tokens", "vision"),
        (replay, "base_pass", "frozen prefix"),
        (model, "adapted_pass", "adapted prefix"),
        (prefix, "integrate", "actions"),
        (model, "forward", "heads"),
    ]
    told = {"batch": batch, "split": split(own, places, "reading, prompts and noise")}
    return _measured(project, own, SigmaByWindow(project, material.shards).predict, windows, told)


def evaluation_sigma(project: Project) -> Measured:
    """Windows a second of Sigma, the frozen base's features and action of these windows made on both sides."""
    return _evaluation_sigma(project, with_base=True)


def evaluation_sigma_cached(project: Project) -> Measured:
    """The same with the frozen base's part taken from what the baseline stage keeps."""
    return _evaluation_sigma(project, with_base=False)


FIGURES: dict[str, Callable[[Project], Measured]] = {
    "evaluation_base": evaluation_base,
    "evaluation_base_by_draw": evaluation_base_by_draw,
    "evaluation_sigma": evaluation_sigma,
    "evaluation_sigma_cached": evaluation_sigma_cached,
}
