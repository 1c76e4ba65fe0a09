"""Plain LoRA with past frames: the policy reads pictures of the last seconds beside the present ones.

What a π0.5 with a memory of frames can know, in its simplest form: each camera's image tokens of a few earlier frames,
after the prompt, so that no token and no action of the base takes another position.

Legend: B decisions, N earlier frames, V cameras, n tokens an image, d backbone width.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sigma.studies.study.cells.arm_folder import FRAMES
from sigma.training.batches import WindowBatches


@dataclass(eq=False)
class PastFrameBatches(WindowBatches):
    """Windows whose observations hold the image tokens of :data:`FRAMES` earlier frames.

    They are the last of those that memory reads too. Where an episode has fewer, its first is repeated; before the
    first decision that is the present one.
    """

    @classmethod
    def of(cls, batches: WindowBatches) -> "PastFrameBatches":
        return cls(**{field.name: getattr(batches, field.name) for field in fields(batches)})

    def earlier_frames(self, now: np.ndarray) -> np.ndarray:
        """Rows (B, N) of the stored frames that are read before the stored frames ``now``, oldest first."""
        shards, rows = self.shards, np.empty((len(now), FRAMES), dtype=np.int64)
        for place, (frame, episode) in enumerate(zip(now.tolist(), shards.frame_episode[now].tolist(), strict=True)):
            reads = -(-int(shards.frame_step[frame]) // shards.meta["memory_stride"])
            read = self.memory_frames[episode][max(0, reads - FRAMES) : reads]
            first = read[0] if reads else frame
            rows[place] = np.concatenate([np.full(FRAMES - len(read), first), read])
        return rows

    def cache_vision(self, windows: np.ndarray, batch: int) -> None:
        """Keep the tokens of earlier frames beside those of the decisions' own."""
        super().cache_vision(windows, batch)
        missing = [frame for frame in np.unique(self._frames_before(windows)).tolist() if (frame, 0) not in self.vision]
        for start in range(0, len(missing), batch):
            rows = np.array(missing[start : start + batch])
            tokens = self.builder.encode_images(self.shards.images(rows)).cpu()
            self.vision.update({(int(frame), 0): tokens[index] for index, frame in enumerate(rows)})

    def _frames_before(self, windows: np.ndarray) -> np.ndarray:
        return self.earlier_frames(self.shards.window_frame[windows])

    def earlier(self, now: np.ndarray) -> Tensor:
        """Image tokens (B, N·V·n, d), oldest frame first."""
        rows = self.earlier_frames(now)
        distinct, index = np.unique(rows, return_inverse=True)
        if all((frame, 0) in self.vision for frame in distinct.tolist()):
            tokens = torch.stack([self.vision[frame, 0] for frame in distinct.tolist()]).to(self.builder.device)
        else:
            tokens = self.builder.encode_images(self.shards.images(distinct))
        return tokens[torch.from_numpy(index.reshape(rows.shape)).to(tokens.device)].flatten(1, 3)
