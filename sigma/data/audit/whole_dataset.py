"""What the audit has to know of the whole dataset before it can judge one episode."""

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_array

from sigma.data.audit.checks.joints import lead_of_action
from sigma.data.audit.measures import Summary
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


def _span(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Range of each joint between its 1 % and 99 % quantiles, so that one glitch does not make every other fault small;
    the whole range where that is zero, and 1 where the whole range is zero too.
    """
    inner, whole = columns["q99"] - columns["q01"], columns["max"] - columns["min"]
    return np.where(inner > 0, inner, np.where(whole > 0, whole, 1.0))


def summarise(dataset: Dataset, tables: Tables) -> Summary:
    """Statistics, repeated frames, leads and overlaps; frames that are not finite are left to their own check."""
    width, rows = len(dataset.joint_names), tables.rows
    state, action, episode = _joined(rows, width)
    actual = {}
    for feature, values in ((STATE, state), (ACTION, action)):
        statistics = feature_statistics(values if len(values) else np.zeros((1, width)))
        actual[feature] = {name: np.array(column) for name, column in statistics.items()}
    span = {feature: _span(columns) for feature, columns in actual.items()}
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
        stored=dataset.stored_statistics(),
        strays=tables.strays,
        frame_excess=tables.frame_excess,
        leads=leads,
        usual_lead=float(np.median(list(leads.values()))) if leads else 0.0,
        repeats=find_repeats(state, action, np.concatenate([span[STATE], span[ACTION]]), episode),
        overlaps=find_overlaps(dataset, tables),
    )
