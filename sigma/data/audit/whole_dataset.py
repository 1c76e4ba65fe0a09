"""What the audit has to know of the whole dataset before it can judge one episode."""

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.sparse import csr_array

from sigma.data.audit.checks.joints import lead_of_action
from sigma.data.audit.measures import Extremes, Settings, Summary
from sigma.data.audit.rows import StoredRows, Tables
from sigma.data.dataset.dataset import ACTION, STATE, Dataset
from sigma.data.dataset.statistics import feature_statistics

# Frames are the same where every joint's state and action lie in the same cell of this share of the joint's range.
# There are two grids of cells, half a cell apart, so that two values on either side of a border share a cell in one.
CELL = 0.01


def _joined(rows: Mapping[int, StoredRows], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State and action [N, D] of all frames whose values are finite, float64, and the episode of each, int64 [N]."""
    parts = [
        (stored.state, stored.action, np.full(stored.count, index)) for index, stored in rows.items() if stored.readable
    ]
    if not parts:
        return np.zeros((0, width)), np.zeros((0, width)), np.zeros(0, np.int64)
    state, action, episode = (np.concatenate(values) for values in zip(*parts, strict=True))
    finite = np.isfinite(state).all(axis=1) & np.isfinite(action).all(axis=1)
    return state[finite].astype(np.float64), action[finite].astype(np.float64), episode[finite]


def _cell_of(scaled: np.ndarray) -> np.ndarray:
    """One number for the cell of each row [N, k] of a grid of width 1, int64 [N]; equal rows get equal numbers."""
    # A sum with random 64-bit weights: two different cells coincide once in about 10^19 pairs.
    weights = np.random.default_rng(0).integers(1, 2**63, scaled.shape[1], dtype=np.int64) | 1
    return (np.floor(scaled).astype(np.int64) * weights).sum(axis=1)


def find_repeats(
    state: np.ndarray, action: np.ndarray, span: np.ndarray, episode: np.ndarray
) -> dict[int, tuple[float, int]]:
    """By episode the largest share of its frames that one earlier episode has too, and that episode.

    ``state`` and ``action`` are [N, D], ``span`` is [2 D], ``episode`` [N]. Episodes that share nothing are left out.
    """
    numbers, place, frames = np.unique(episode, return_inverse=True, return_counts=True)
    scaled = np.concatenate([state, action], axis=1) / (span * CELL)
    grids = []
    for offset in (0.0, 0.5):
        cells, cell = np.unique(_cell_of(scaled + offset), return_inverse=True)
        # Frames of each episode in each cell, and which episodes have a cell: their product counts shared frames.
        frames_in = csr_array((np.ones(len(cell)), (place, cell)), shape=(len(numbers), len(cells)))
        frames_in.sum_duplicates()
        grids.append((frames_in, (frames_in > 0).astype(np.float64).T.tocsr()))
    repeats = {}
    for row, index in enumerate(numbers[1:].tolist(), start=1):
        shared = np.max([(frames_in[[row]] @ cells_of).toarray()[0, :row] for frames_in, cells_of in grids], axis=0)
        earlier = int(shared.argmax())
        if shared[earlier]:
            repeats[index] = (float(shared[earlier] / frames[row]), int(numbers[earlier]))
    return repeats


def find_overlaps(dataset: Dataset, tables: Tables) -> dict[tuple[int, str], float]:
    """By episode and camera, the frames by which its part of a video file begins before an earlier part has ended."""
    overlaps = {}
    for camera in dataset.cameras:
        ended: dict[str, float] = {}
        for episode in dataset.episodes:
            span = tables.declared[episode.index].spans.get(camera)
            if span is None or camera not in episode.videos:
                continue
            path = episode.videos[camera].path
            overlaps[episode.index, camera] = max(ended.get(path, span[0]) - span[0], 0.0) * dataset.fps
            ended[path] = max(ended.get(path, span[1]), span[1])
    return overlaps


def _span(columns: Mapping[str, np.ndarray], floor: float) -> np.ndarray:
    """Range of each joint between its 1 % and 99 % quantiles, so that one glitch does not make every other fault small,
    and at least ``floor``, so that the noise of a joint that stands still does not look like one.
    """
    return np.maximum(columns["q99"] - columns["q01"], floor)


def _two_level(values: np.ndarray, columns: Mapping[str, np.ndarray], span: np.ndarray) -> np.ndarray:
    """Whether a joint of ``values`` [N, D] is at either end of its range in nearly all frames, bool [D]."""
    near = np.minimum(np.abs(values - columns["q01"]), np.abs(values - columns["q99"])) <= 0.05 * span
    return near.mean(axis=0) > 0.95 if len(values) else np.zeros(len(span), dtype=bool)


def _usual_reach(episodes: Iterable[np.ndarray]) -> float:
    """Median over episodes of the largest finite value [n, D] of any joint; 0 without episodes."""
    reaches = [float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) for values in episodes]
    return float(np.median(reaches)) if reaches else 0.0


def summarise(dataset: Dataset, tables: Tables, floor: float) -> Summary:
    """Statistics, repeated frames, leads and overlaps; frames that are not finite are left to their own check.

    ``floor`` is the least range of a joint.
    """
    width, rows = len(dataset.joint_names), tables.rows
    readable = [stored for stored in rows.values() if stored.readable]
    state, action, episode = _joined(rows, width)
    actual = {}
    values = {STATE: state, ACTION: action}
    for feature, column in values.items():
        statistics = feature_statistics(column if len(column) else np.zeros((1, width)))
        actual[feature] = {name: np.array(column) for name, column in statistics.items()}
    span = {feature: _span(columns, floor) for feature, columns in actual.items()}
    reach = max(dataset.fps, 8)
    with np.errstate(invalid="ignore"):
        all_leads = {
            index: lead_of_action(stored.state, stored.action, span[STATE], reach)
            for index, stored in rows.items()
            if stored.readable
        }
    leads = {index: lead for index, lead in all_leads.items() if lead is not None}
    return Summary(
        actual=actual,
        span=span,
        two_level={name: _two_level(values[name], actual[name], span[name]) for name in span},
        reach={
            STATE: _usual_reach(stored.state for stored in readable),
            ACTION: _usual_reach(stored.action for stored in readable),
        },
        stored=tables.statistics,
        strays=tables.strays,
        frame_excess=tables.frame_excess,
        leads=leads,
        usual_lead=float(np.median(list(leads.values()))) if leads else 0.0,
        repeats=find_repeats(state, action, np.concatenate([span[STATE], span[ACTION]]), episode),
        overlaps=find_overlaps(dataset, tables),
    )


def find_extremes(
    dataset: Dataset, episodes: Mapping[int, StoredRows], summary: Summary, settings: Settings
) -> Extremes | None:
    """What the checks of units read, of the rows of these episodes; None where none has a row."""
    filled = {index: rows for index, rows in episodes.items() if rows.count}
    values = [np.concatenate([rows.state, rows.action]).astype(np.float64) for rows in filled.values()]
    if not values:
        return None
    return Extremes(
        episodes=tuple(filled),
        joint_names=dataset.joint_names,
        low=np.stack([of_episode.min(axis=0) for of_episode in values]),
        high=np.stack([of_episode.max(axis=0) for of_episode in values]),
        travel={name: columns["q99"] - columns["q01"] for name, columns in summary.actual.items()},
        tremble={
            STATE: _tremble(rows.state for rows in filled.values()),
            ACTION: _tremble(rows.action for rows in filled.values()),
        },
        lower=settings.lower,
        upper=settings.upper,
        floor=settings.floor,
    )


def _tremble(episodes: Iterable[np.ndarray]) -> np.ndarray:
    """Squared steps as a share of squared distances from each episode's mean, over all episodes, [D] (von Neumann's
    ratio): 2 for white noise, and also where nothing changes; far below 1 for whatever moves or switches.
    """
    steps, distances = 0.0, 0.0
    for episode in episodes:
        values = episode.astype(np.float64)
        steps = steps + (np.diff(values, axis=0) ** 2).sum(axis=0)
        distances = distances + ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    return np.divide(steps, distances, out=np.full_like(distances, 2.0), where=distances > 0)
