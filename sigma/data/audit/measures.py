"""What a check of the audit reads, and what it yields."""

from collections.abc import Callable, Collection, Iterator
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
    """What a check measured: a value in its unit, the frames it concerns (−1: all), the joint or camera, and words."""

    value: float
    first_frame: int = -1
    last_frame: int = -1
    subject: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Settings:
    """From params.yaml: the fewest frames of an episode, the least and greatest value of a joint in its units, the
    joints that are not judged, the episodes that do not count for the dataset as a whole, and those in which a policy
    acted and was corrected.
    """

    min_frames: int
    lower: float
    upper: float
    exclude_joints: Collection[str] = ()
    exclude: Collection[int] = ()
    corrected: Collection[int] = ()

    @property
    def floor(self) -> float:
        """A hundredth of the range of joints, in their units, where they reach as far to either side: a joint that
        travels less stands still."""
        return 0.02 * min(abs(end) for end in (self.lower, self.upper) if end)


@dataclass(frozen=True)
class Summary:
    """What one pass over all tables gives: statistics of each feature, and comparisons between episodes."""

    actual: dict[str, dict[str, np.ndarray]]  # by feature, statistics of all frames, each [D]
    span: dict[str, np.ndarray]  # by feature, a joint's range [D], at least the floor of the settings
    two_level: dict[str, np.ndarray]  # by feature, whether a joint knows two positions, bool [D]
    reach: dict[str, float]  # by feature, the largest value of any joint in an episode, the median over episodes
    stored: dict[str, Statistics]  # meta/stats.json
    strays: int  # rows that belong to no episode
    frame_excess: int  # frames that meta/info.json declares beyond the episodes' lengths
    leads: dict[int, int]  # by episode, frames by which the action leads the state; absent where nothing moves
    usual_lead: float  # their median
    repeats: dict[int, tuple[float, int]]  # by episode, the share of its frames that an earlier one has, and which one
    overlaps: dict[tuple[int, str], float]  # by episode and camera, frames shared with an earlier episode's video


@dataclass(frozen=True)
class AuditedEpisode:
    """What a check of one episode reads."""

    episode: Episode
    rows: StoredRows
    declared: Declared
    dataset: Dataset
    summary: Summary
    settings: Settings

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the joints, in the order of the columns of state and action."""
        return self.dataset.joint_names


@dataclass(frozen=True)
class FilmedEpisode:
    """What a check of one episode's cameras reads: thumbnails of the decoded frames, and how far each joint is along
    its range, float [n, D] (no rows where the table is not readable).
    """

    episode: Episode
    fps: int
    cameras: dict[str, CameraTrace]
    position: np.ndarray


@dataclass(frozen=True)
class Extremes:
    """What a check of units reads: the lowest and highest value of each joint in each episode that no other check
    fails (in all where none is left), state and action together, float [E, D]; by feature the travel of each joint, and
    how much it trembles, both [D]; the range of the settings, and the travel below which a joint may stand still.
    """

    episodes: tuple[int, ...]
    joint_names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    travel: dict[str, np.ndarray]
    tremble: dict[str, np.ndarray]
    lower: float
    upper: float
    floor: float


Signatures = dict[int, dict[str, np.ndarray]]
DatasetCheck = Callable[[Summary], Iterator[Measure]]
UnitsCheck = Callable[[Extremes], Iterator[Measure]]
EpisodeCheck = Callable[[AuditedEpisode], Iterator[Measure]]
CameraCheck = Callable[[FilmedEpisode], Iterator[Measure]]
AcrossCheck = Callable[[Signatures], Iterator[tuple[int, Measure]]]
