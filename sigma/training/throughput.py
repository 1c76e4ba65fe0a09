"""Speed and memory of a training: for the log, never for an output, which must not depend on the machine."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Speed:
    """Windows a second of the optimizer steps since the last point, and the peak of memory so far."""

    def __init__(self, device: torch.device):
        self.device = device
        self.points: list[dict[str, float]] = []
        self._windows, self._seconds = 0, 0.0

    @contextmanager
    def step(self, windows: int) -> Iterator[None]:
        """Measure one optimizer step over ``windows`` windows."""
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started
        self._windows += windows

    @property
    def rate(self) -> float:
        """Windows a second since the last point; 0 before the first step."""
        return self._windows / self._seconds if self._seconds else 0.0

    def note(self, step: int) -> None:
        """Record a point at ``step`` and begin to measure the next."""
        memory = {"peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
        if self.device.type == "cuda":
            memory["device_peak_memory_mib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)
        self.points.append({"step": step, "windows_per_second": round(self.rate, 2), **memory})
        self._windows, self._seconds = 0, 0.0
