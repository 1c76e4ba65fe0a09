"""The windows of an optimizer step: a function of the seed and the step, so that a resumed run needs no state."""

import numpy as np

from sigma.shared.seeding import generator


class WindowSampler:
    """Batches of a fixed size from a stream of seeded permutations; every window comes once an epoch."""

    def __init__(self, windows: int, batch: int, seed: int):
        if windows < 1:
            raise ValueError("no windows to draw from")
        self.windows, self.batch, self.seed = windows, batch, seed

    def rows(self, step: int) -> np.ndarray:
        """(batch,) rows of optimizer step ``step``."""
        first, last = step * self.batch, (step + 1) * self.batch - 1
        epochs = range(first // self.windows, last // self.windows + 1)
        stream = np.concatenate([generator(self.seed, "order", epoch).permutation(self.windows) for epoch in epochs])
        start = first - epochs[0] * self.windows
        return stream[start : start + self.batch]
