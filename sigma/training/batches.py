"""The inputs of training and of Sigma's evaluation: the base, the shards, and the baseline stage's results."""

import hashlib
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from sigma.compute import processes
from sigma.data.shards import Shards
from sigma.parameters.training import TrafParameters
from sigma.policy.pi05.base import Base, load_base
from sigma.policy.pi05.base_action import Kind, deterministic_action
from sigma.policy.pi05.inputs import InputBuilder, Normalisation
from sigma.policy.pi05.observation import Observation, Past
from sigma.policy.pi05.prefix import Encoded, Steering
from sigma.shared import records
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file
from sigma.shared.seeding import Key
from sigma.shared.tables import read_columns
from sigma.training.augmentation import Augmentation
from sigma.training.losses import window_worth
from sigma.training.prefetch import Prefetcher

COLUMNS = ("window", "episode", "step", "split", "action", "valid", "base_action")


@dataclass(frozen=True)
class _Read:
    """The stored inputs of some windows. With ``tokens`` the images (B, V, 3, S, S) are image tokens (B, V, n, d)."""

    tokens: bool
    images: Tensor
    pooled: Tensor  # (B, P, d)
    past: Past


@dataclass(eq=False)
class WindowBatches:
    """Inputs of every window, ready to be batched.

    Legend: W windows, F frames, P pooled vectors, d backbone width, T horizon, A action dim.
    """

    base: Base
    shards: Shards
    builder: InputBuilder
    meta: dict  # of data/features
    pooled: Tensor  # (F, P, d) of the frozen base's pass
    frame_views: Tensor  # (F, 2V, d) of the frozen image tokens
    text: Tensor  # (tasks, d)
    columns: dict[str, np.ndarray]
    digest: str
    dtype: str
    views: Augmentation = field(default_factory=Augmentation)  # what training may see instead of a frame's own images
    vision: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # (frame, view) -> (V, n, d), where cached

    def __post_init__(self) -> None:
        self._prefetcher = Prefetcher(self._read)
        self.memory_frames = self.shards.memory_frames()

    @property
    def split(self) -> np.ndarray:
        return self.columns["split"]

    def targets(self, windows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Recorded actions (B, T, A), normalised, and their mask (B, T)."""
        device = self.builder.device
        action = torch.from_numpy(self.columns["action"][windows]).to(device)
        return action, torch.from_numpy(self.columns["valid"][windows]).to(device)

    def base_action(self, windows: np.ndarray) -> Tensor:
        """The frozen base's deterministic action (B, T, A)."""
        return torch.from_numpy(self.columns["base_action"][windows]).to(self.builder.device)

    def scored_joints(self) -> Tensor:
        """(A,) bool, False at joints that the window stage excludes by name."""
        excluded = set(self.shards.meta["exclude_joints"])
        keep = [name not in excluded for name in self.shards.meta["joint_names"]]
        return torch.tensor(keep, device=self.builder.device)

    def worth(self, traf: TrafParameters) -> np.ndarray:
        """What the loss of each window counts (W,), as :func:`window_worth` says."""
        return window_worth(self.shards.window_intervention, self.shards.window_to_correction, traf)

    def cache_vision(self, windows: np.ndarray, batch: int) -> None:
        """Keep the frozen image tokens of these windows' decision frames, which do not change during training.

        Of train windows every view is kept, of others only the image itself.
        """
        for number in range(self.views.count + 1):
            chosen = windows[self.split[windows] == "train"] if number else windows
            frames = np.unique(self.shards.window_frame[chosen])
            for start in range(0, len(frames), batch):
                rows = frames[start : start + batch]
                images = self.views.apply(self.shards.images(rows), rows, [number] * len(rows))
                tokens = self.builder.encode_images(images).cpu()
                self.vision.update({(int(frame), number): tokens[index] for index, frame in enumerate(rows)})

    def read_ahead(self, windows: np.ndarray, numbers: np.ndarray) -> None:
        """Begin to read, in another thread, what :meth:`observation` of these windows and views will need next."""
        self._prefetcher.request(windows, numbers)

    def _read(self, windows: np.ndarray, numbers: np.ndarray) -> "_Read":
        now = self.shards.window_frame[windows]
        keys = list(zip(now.tolist(), numbers.tolist(), strict=True))
        cached = all(key in self.vision for key in keys)
        if cached:
            images = torch.stack([self.vision[key] for key in keys])
        else:
            images = self.views.apply(self.shards.images(now), now, numbers)
        past, pooled = self.past(windows), self.pooled[now]
        if self.builder.device.type == "cuda":  # a GPU copies from it while it computes
            images, pooled = images.pin_memory(), pooled.pin_memory()
            past = Past(*(value.pin_memory() for value in vars(past).values()))
        return _Read(cached, images, pooled, past)

    def past(self, windows: np.ndarray) -> Past:
        """What memory reads before the decisions of ``windows``; windows of one episode share a row. On the CPU."""
        return self.past_of(self.shards.window_frame[windows])

    def past_of(self, now: np.ndarray) -> Past:
        """The same before decisions at the stored frames ``now``."""
        shards = self.shards
        episodes, row = np.unique(shards.frame_episode[now], return_inverse=True)
        reads = -(-shards.frame_step[now] // shards.meta["memory_stride"])
        longest = int(reads.max(initial=0))
        frames = np.zeros((len(episodes), longest), dtype=np.int64)
        for place, episode in enumerate(episodes.tolist()):
            read = self.memory_frames[episode][:longest]
            frames[place, : len(read)] = read
        states = self.builder.normalisation.state.normalise(shards.frame_state[frames])
        return Past(
            views=self.frame_views[torch.from_numpy(frames)],
            states=torch.from_numpy(states),
            text=self.text[torch.from_numpy(shards.frame_task[frames])],
            episode=torch.from_numpy(row.reshape(-1)),
            reads=torch.from_numpy(reads),
        )

    def observation(
        self,
        windows: np.ndarray,
        state_noise: np.ndarray | None = None,
        *,
        numbers: np.ndarray | None = None,
        train_vision: bool = False,
    ) -> tuple[Observation, Past]:
        """What the policy reads at the decisions of ``windows``, and what memory has read before them.

        Args:
            state_noise: (B, D) in normalised units, added to the state and to the states before it alike, so that the
                motion between them stays.
            numbers: (B,) the view of its images that each window reads; the images themselves by default.
            train_vision: the image tokens carry a gradient to the vision tower; then none may be cached.
        """
        shards = self.shards
        now = shards.window_frame[windows]
        read = self._prefetcher.take(windows, np.zeros(len(now), dtype=np.int64) if numbers is None else numbers)
        vision = read.images if read.tokens else self.builder.encode_images(read.images, gradient=train_vision)
        states, trace = shards.frame_state[now], shards.frame_trace[now]
        if state_noise is not None:
            quantiles = self.builder.normalisation.state
            noise = state_noise.astype(np.float32) * (quantiles.q99 - quantiles.q01) / 2
            states, trace = states + noise, trace + noise[:, None]
        texts = [shards.tasks[task] for task in shards.window_task[windows]]
        observation, device = self.builder.observation(vision, states, texts, trace), self.builder.device
        observation = observation.with_frozen_features(read.pooled.to(device, non_blocking=True))
        return replace(observation, earlier=self.earlier(now)), read.past.to(device)

    def earlier(self, now: np.ndarray) -> Tensor | None:
        """Image tokens (B, E, d) of frames before the stored frames ``now`` (B,), for a policy that reads some."""
        return None

    def decide(
        self, policy: PI05Policy, encoded: Encoded, windows: np.ndarray, kind: Kind, steering: Steering | None = None
    ) -> Tensor:
        """The action (B, T, A) of ``windows`` by the rule ``kind``, under the noise that the frozen base had there."""
        shards, meta = self.shards, self.meta
        addresses: list[tuple[Key, ...]] = [(shards.window_episode[row], shards.window_step[row]) for row in windows]
        draws: dict[str, Any] = {"samples": meta["samples"], "seed": meta["seed"], "addresses": addresses}
        action = deterministic_action(kind, policy, encoded, meta["num_steps"], steering, **draws)
        return action[:, : shards.meta["horizon"]]


def load_batches(
    base_file: Path, shards_folder: Path, features: Path, baseline: Path, *, device: torch.device
) -> WindowBatches:
    """Open the inputs and check that they belong together.

    The base's weights have the type that the features were made with. Without ``expert`` the action expert is not on
    the device.

    Raises:
        SigmaError: a file is not readable, or two of them come from different runs.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    reference = records.read_record(base_file, records.BASE)
    meta = records.read_record(features / "meta.json", records.FEATURES)
    if meta["base_digest"] != reference["digest"]:
        raise SigmaError(f"{features}: made with another base than {base_file}; run `dvc repro baseline`")
    shards = Shards.open(shards_folder)
    file = features / "features.safetensors"
    try:
        tensors = load_file(file)
        pooled, frame_views, text = (tensors[name] for name in ("pooled", "views", "text"))
    except KeyError as error:
        raise SigmaError(f"{file}: tensor {error} is missing; run `dvc repro baseline`") from None
    except (SafetensorError, OSError) as error:
        raise SigmaError(f"{file}: not readable ({' '.join(str(error).split())})") from None
    shape, expected = tuple(pooled.shape), tuple(meta[name] for name in ("frames", "pools", "width"))
    if shape != expected:
        raise SigmaError(f"{file}: pooled has shape {shape}, meta.json says {expected}; run `dvc repro baseline`")
    for name, tensor in (("pooled", pooled), ("views", frame_views)):
        if len(tensor) != len(pooled) or not all(torch.isfinite(part).all() for part in tensor.split(4096)):
            raise SigmaError(f"{file}: {name} holds a non-finite number or other frames; run `dvc repro baseline`")
    columns, _ = read_columns(baseline, COLUMNS)
    if meta["shards_digest"] != digest_file(shards_folder / "meta.json"):
        raise SigmaError(f"{features}: made from other shards than {shards_folder}; run `dvc repro baseline`")
    if len(pooled) != len(shards.frame_step) or len(columns["window"]) != len(shards.window_step):
        raise SigmaError(f"{baseline}: made from other shards than {shards_folder}; run `dvc repro baseline`")
    base = load_base(reference, device=str(device), dtype=meta["dtype"], split=processes.split_layers)
    base = replace(base, cameras=tuple(shards.meta["cameras"]))  # those that the windows have
    builder = InputBuilder(base, Normalisation.from_json(meta["normalisation"]))
    digest = hashlib.sha256()
    for file in (base_file, shards_folder / "meta.json", *sorted(features.iterdir()), baseline):
        digest.update(digest_file(file).encode())
    return WindowBatches(
        base, shards, builder, meta, pooled, frame_views, text, columns, digest.hexdigest(), meta["dtype"]
    )


def map_parts[Part](make: Callable[[slice], Part], total: int, batch: int) -> list[Part]:
    """The results of ``make`` for every ``batch`` of ``total`` rows, shared out over the processes, without gradients.

    Tensors among the results must be on the CPU.
    """
    starts = range(0, total, batch)
    with torch.no_grad():
        parts = [make(slice(start, start + batch)) for start in processes.local_shard(starts)]
    return processes.gather_parts(parts, len(starts))


def code_digest() -> str:
    """Digest of the sources that training runs, so that no checkpoint of other code is ever resumed."""
    package, digest = Path(str(importlib.resources.files("sigma"))), hashlib.sha256()
    for folder in ("shared", "compute", "data", "policy", "training", "studies/study/train"):
        for file in sorted((package / folder).rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
