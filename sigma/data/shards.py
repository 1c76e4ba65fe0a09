"""The files between the dataset and everything that learns or scores: later stages read these and nothing else.

A folder holds ``shard_0000x.pt`` (tensors), ``windows.parquet`` (one row a candidate window) and ``meta.json`` (format
version, protocol, statistics, splits, digests). A frame is stored once, however many windows see it; an episode lies in
one shard. The same input gives the same bytes.

Legend: F frames, W windows, L trace, V cameras, S resolution, T chunk_size of the base, D joints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sigma.shared import records
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, read_json, read_table, read_torch, write_json, write_table

if TYPE_CHECKING:
    import pyarrow

FORMAT_VERSION = 4
META, WINDOWS = "meta.json", "windows.parquet"
AGAIN = "run the window stage again (dvc repro window)"

# Name: (dtype, shape).
TENSORS: dict[str, tuple[torch.dtype, str]] = {
    "frame_images": (torch.uint8, "F V 3 S S"),
    "frame_state": (torch.float32, "F D"),  # raw units
    "frame_trace": (torch.float32, "F L D"),  # raw units, the states of the L steps before; L may be 0
    "frame_episode": (torch.int64, "F"),
    "frame_step": (torch.int64, "F"),
    "frame_task": (torch.int64, "F"),
    "window_episode": (torch.int64, "W"),
    "window_step": (torch.int64, "W"),
    "window_task": (torch.int64, "W"),
    "window_frame": (torch.int64, "W"),  # row of this shard: what the decision sees
    "window_action": (torch.float32, "W T D"),  # raw units, the last action repeated past the episode's end
    "window_valid": (torch.bool, "W T"),
}


def shard_name(index: int) -> str:
    """The file name of shard ``index``."""
    return f"shard_{index:05d}.pt"


def write_shard(folder: Path, index: int, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Write one shard and return its record for ``meta.json``: name, bytes, sha256, frames, windows."""
    _check_tensors(tensors, shard_name(index))
    path = folder / shard_name(index)
    # An open file, not a path: torch stores a path's stem inside the archive, and temporary names differ.
    with open(path, "wb") as file:
        torch.save({name: tensors[name].contiguous() for name in TENSORS}, file)
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest_file(path),
        "frames": len(tensors["frame_step"]),
        "windows": len(tensors["window_step"]),
    }


def write_index(folder: Path, meta: Mapping[str, Any], windows: "pyarrow.Table") -> None:
    """Write ``windows.parquet`` and ``meta.json`` beside the shards; the latter gets format version and digest."""
    write_table(folder / WINDOWS, windows)
    version = {"format_version": FORMAT_VERSION, "windows_sha256": digest_file(folder / WINDOWS)}
    write_json(folder / META, {**meta, **version})


def _check_tensors(tensors: Mapping[str, Any], name: str) -> None:
    missing = sorted(set(TENSORS) - set(tensors))
    if missing:
        raise SigmaError(f"{name}: tensor {missing[0]!r} is missing")
    sizes: dict[str, int] = {}
    for key, (dtype, shape) in TENSORS.items():
        tensor, letters = tensors[key], shape.split()
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != dtype or tensor.ndim != len(letters):
            raise SigmaError(f"{name}: tensor {key!r} is not {dtype} with {len(letters)} dimensions")
        if sizes.setdefault(letters[0], len(tensor)) != len(tensor):
            raise SigmaError(f"{name}: tensor {key!r} has {len(tensor)} rows where others have {sizes[letters[0]]}")


def _check_values(tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any], path: Path) -> None:
    """Refuse sizes that differ from ``meta.json``, non-finite numbers, and references to missing rows or tasks."""
    sizes = {"V": len(meta["cameras"]), "3": 3, "S": meta["resolution"], "D": len(meta["joint_names"])}
    sizes |= {"L": meta["trace"], "T": meta["chunk_size"]}
    for key, (_, shape) in TENSORS.items():
        actual, expected = tuple(tensors[key].shape[1:]), tuple(sizes[letter] for letter in shape.split()[1:])
        if actual != expected:
            raise SigmaError(f"{path}: tensor {key!r} has rows of shape {actual}, {META} says {expected}; {AGAIN}")
    for key in ("frame_state", "frame_trace", "window_action"):
        if not torch.isfinite(tensors[key]).all():
            raise SigmaError(f"{path}: tensor {key!r} holds a non-finite number; {AGAIN}")
    frames, observed = len(tensors["frame_step"]), tensors["window_frame"]
    if ((observed < 0) | (observed >= frames)).any():
        raise SigmaError(f"{path}: tensor 'window_frame' names a frame that the shard does not hold; {AGAIN}")
    tasks = len(meta["tasks"])
    for key in ("frame_task", "window_task"):
        unknown = tensors[key][(tensors[key] < 0) | (tensors[key] >= tasks)]
        if len(unknown):
            raise SigmaError(f"{path}: tensor {key!r} names task {unknown[0]}, {META} lists {tasks}; {AGAIN}")


def _load_shard(folder: Path, index: int, meta: Mapping[str, Any], verify: bool) -> dict[str, torch.Tensor]:
    record = meta["shards"][index]
    if record["name"] != shard_name(index):
        raise SigmaError(f"{folder / META}: shards: found {record['name']!r}; legal: {shard_name(index)}; {AGAIN}")
    path = folder / record["name"]
    if not path.is_file():
        raise SigmaError(f"{path}: the shard is missing; {AGAIN}")
    size = path.stat().st_size
    if size < record["bytes"]:
        raise SigmaError(f"{path}: the shard is truncated ({size} of {record['bytes']} bytes); {AGAIN}")
    if size > record["bytes"] or (verify and digest_file(path) != record["sha256"]):
        raise SigmaError(f"{path}: the shard was altered (its digest is not that of {META}); {AGAIN}")
    try:
        tensors = read_torch(path, mmap=True)
    except Exception as error:  # a file from elsewhere may be broken in any way
        reason = " ".join(str(error).split())[:120]
        raise SigmaError(f"{path}: not readable as a shard ({type(error).__name__}: {reason}); {AGAIN}") from None
    if not isinstance(tensors, dict):
        raise SigmaError(f"{path}: expected a mapping of names to tensors; {AGAIN}")
    _check_tensors(tensors, str(path))
    _check_values(tensors, meta, path)
    if (len(tensors["frame_step"]), len(tensors["window_step"])) != (record["frames"], record["windows"]):
        raise SigmaError(f"{path}: frame and window counts differ from {META}; {AGAIN}")
    return tensors


@dataclass(frozen=True)
class Shards:
    """All shards of a folder as one set of arrays; images stay on disk until they are asked for.

    Frame ids are global: rows of the shards one after the other. Types and shapes are those of :data:`TENSORS`.
    """

    folder: Path
    meta: dict[str, Any]
    tasks: list[str]
    frame_state: np.ndarray
    # Joint states of the L control steps before the frame, oldest first. Before the episode began its first state is
    # repeated.
    frame_trace: np.ndarray
    frame_episode: np.ndarray
    frame_step: np.ndarray
    frame_task: np.ndarray
    window_episode: np.ndarray
    window_step: np.ndarray
    window_task: np.ndarray
    window_split: np.ndarray  # str [W]
    window_kept: np.ndarray  # bool [W]
    window_strided: np.ndarray  # bool [W]
    window_intervention: np.ndarray  # bool [W]: a person decided in a policy's place
    # float32 [W], seconds until a person does, infinite where none does in the episode; NaN in demonstrations.
    window_to_correction: np.ndarray
    window_frame: np.ndarray  # global frame ids
    window_action: np.ndarray
    window_valid: np.ndarray
    _images: tuple[torch.Tensor, ...]
    _first_frame: np.ndarray

    @classmethod
    def open(cls, folder: Path, verify: bool = True) -> "Shards":
        """Open ``folder`` and check it; ``verify=False`` skips the digests (sizes are still checked).

        Raises :class:`SigmaError`, naming the file, for another format and for a missing, truncated or altered file.
        """
        folder = Path(folder)
        meta = read_json(folder / META)
        version = meta.get("format_version") if isinstance(meta, dict) else None
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            hint = "update this package" if newer else AGAIN
            raise SigmaError(
                f"{folder / META}: format version {version!r} is not read here, only {FORMAT_VERSION}; {hint}"
            )
        records.check_record(meta, records.SHARDS, f"{folder / META}: ", AGAIN)
        if verify and (folder / WINDOWS).is_file() and digest_file(folder / WINDOWS) != meta["windows_sha256"]:
            raise SigmaError(f"{folder / WINDOWS}: altered or truncated (its digest is not that of {META}); {AGAIN}")
        names = ["window", "split", "kept", "strided", "intervention", "to_correction"]
        table = read_table(folder / WINDOWS, names)
        if table.column_names != names:
            raise SigmaError(f"{folder / WINDOWS}: expected the columns {', '.join(names)}; {AGAIN}")
        ids = table["window"].to_numpy()
        order = np.argsort(ids, kind="stable")[np.count_nonzero(ids < 0) :]  # −1: a window that is not stored
        split, kept, strided, intervention, to_correction = (table[name].to_numpy()[order] for name in names[1:])
        loaded = [_load_shard(folder, index, meta, verify) for index in range(len(meta["shards"]))]
        if not loaded:
            raise SigmaError(f"{folder / META}: no shard is listed; {AGAIN}")
        first_frame = np.cumsum([0, *(record["frames"] for record in meta["shards"])])
        joined = {
            name: np.concatenate([shard[name].numpy() for shard in loaded])
            for name in TENSORS
            if name != "frame_images"
        }
        joined["window_frame"] += np.repeat(first_frame[:-1], [record["windows"] for record in meta["shards"]])
        if len(order) != len(joined["window_step"]):
            raise SigmaError(
                f"{folder / WINDOWS}: {len(order)} stored windows, the shards hold another number; {AGAIN}"
            )
        return cls(
            folder=folder,
            meta=meta,
            tasks=list(meta["tasks"]),
            window_split=split.astype(str),
            window_kept=kept.astype(bool),
            window_strided=strided.astype(bool),
            window_intervention=intervention.astype(bool),
            window_to_correction=to_correction.astype(np.float32),
            _images=tuple(shard["frame_images"] for shard in loaded),
            _first_frame=first_frame,
            **joined,
        )

    def memory_frames(self) -> dict[int, np.ndarray]:
        """The global ids of the frames that memory reads of each episode, oldest first: steps 0, stride, 2·stride, …

        Every such frame before an episode's last decision is stored.
        """
        on_stride = np.flatnonzero(self.frame_step % self.meta["memory_stride"] == 0)
        order = on_stride[np.lexsort((self.frame_step[on_stride], self.frame_episode[on_stride]))]
        episodes, first = np.unique(self.frame_episode[order], return_index=True)
        return dict(zip(episodes.tolist(), np.split(order, first[1:]), strict=True))

    def memory_reads(self, windows: np.ndarray) -> np.ndarray:
        """How many of those frames lie before the decision of each of ``windows``, int64."""
        return -(-self.window_step[windows] // self.meta["memory_stride"])

    def images(self, frames: np.ndarray) -> torch.Tensor:
        """Images of global frame ids [n], uint8 [n, V, 3, S, S]; raises ``IndexError`` outside 0 ≤ id < F."""
        ids = np.asarray(frames, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self._first_frame[-1]):
            raise IndexError(f"frame ids must lie in 0 to {self._first_frame[-1] - 1}")
        result = np.empty((len(ids), *self._images[0].shape[1:]), dtype=np.uint8)
        shards = [images.numpy() for images in self._images]
        shard_of = np.searchsorted(self._first_frame, ids, side="right") - 1
        # Whole frames are copied as blocks of memory; torch's index would copy byte by byte.
        for row, (shard, frame) in enumerate(zip(shard_of, ids - self._first_frame[shard_of], strict=True)):
            result[row] = shards[shard][frame]
        return torch.from_numpy(result)
