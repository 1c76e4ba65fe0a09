"""What a check of the audit is: what it may look at, and what it yields."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sigma.data.source import Dataset, Episode, Rows
from sigma.data.statistics import Statistics
from sigma.data.trace import CameraTrace


@dataclass(frozen=True)
class Measure:
    """What a check saw: a value in the check's unit, the frames it concerns (−1: all), and words."""

    value: float
    first_frame: int = -1
    last_frame: int = -1
    detail: str = ""


@dataclass(frozen=True)
class Summary:
    """What one pass over all tables tells: statistics by feature, and episodes that repeat an earlier one."""

    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]
    stored: dict[str, Statistics]
    repeats: dict[int, int]

    def span(self, feature: str) -> np.ndarray:
        """Range of each joint over the dataset, with 1 where it is zero."""
        span = self.high[feature] - self.low[feature]
        return np.where(span > 0, span, 1.0)


@dataclass(frozen=True)
class AuditedEpisode:
    """What a check may look at: the declared episode, its rows, its decoded cameras and the dataset's summary."""

    episode: Episode
    rows: Rows
    cameras: dict[str, CameraTrace]
    dataset: Dataset
    summary: Summary
    min_frames: int


EpisodeCheck = Callable[[AuditedEpisode], Iterator[Measure]]
DatasetCheck = Callable[[Summary], Iterator[Measure]]
