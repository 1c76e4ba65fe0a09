"""What a check of the audit is: what it may look at, and what it yields."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sigma.data.audit.rows import Declared, StoredRows
from sigma.data.audit.thumbnails import CameraTrace
from sigma.data.dataset.dataset import Dataset, Episode
from sigma.data.dataset.statistics import Statistics

WHOLE_DATASET = -1
# A joint that travels less than this share of its range counts as standing still.
TRAVEL = 0.05


@dataclass(frozen=True)
class Measure:
    """What a check saw: a value in the check's unit, the frames it concerns (−1: all), joint or camera, and words."""

    value: float
    first_frame: int = -1
    last_frame: int = -1
    subject: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Settings:
    """Of params.yaml: the fewest frames of an episode, and the least and greatest value of a joint in its units."""

    min_frames: int
    lower: float
    upper: float


@dataclass(frozen=True)
class Summary:
    """What one pass over all tables tells: statistics by feature with a joint's range (never 0), rows that belong
    nowhere, declared frames too many or too few, and what is compared between episodes: the lead of action over state
    in frames (absent where nothing moves) and its median, the share of frames that an earlier episode has too with that
    episode, and by episode and camera the frames by which its part of the video begins before an earlier part has
    ended.
    """

    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]
    span: dict[str, np.ndarray]
    stored: dict[str, Statistics]
    strays: int
    frame_excess: int
    leads: dict[int, int]
    usual_lead: float
    repeats: dict[int, tuple[float, int]]
    overlaps: dict[tuple[int, str], float]


@dataclass(frozen=True)
class AuditedEpisode:
    """What a check of one episode may look at."""

    episode: Episode
    rows: StoredRows
    declared: Declared
    dataset: Dataset
    summary: Summary
    settings: Settings


@dataclass(frozen=True)
class FilmedEpisode:
    """What a check of one episode's cameras may look at: the decoded frames, and how far a joint is along its range,
    float [n, D] (no rows where the table is not readable).
    """

    episode: Episode
    fps: int
    cameras: dict[str, CameraTrace]
    position: np.ndarray


Signatures = dict[int, dict[str, np.ndarray]]
DatasetCheck = Callable[[Summary], Iterator[Measure]]
EpisodeCheck = Callable[[AuditedEpisode], Iterator[Measure]]
CameraCheck = Callable[[FilmedEpisode], Iterator[Measure]]
AcrossCheck = Callable[[Signatures], Iterator[tuple[int, Measure]]]
