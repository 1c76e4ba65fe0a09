"""Statistics of state and action: exact quantiles against LeRobot's histograms, on the same episodes in memory.

Legend: n frames of an episode, D joints.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from lerobot.datasets.compute_stats import DEFAULT_QUANTILES, aggregate_stats, compute_episode_stats

from sigma.data.dataset.dataset import ACTION, STATE
from sigma.data.dataset.statistics import feature_statistics
from sigma.data.windows.candidates import read_usable
from sigma.studies.benchmark.kept_record import Measured, summary
from sigma.studies.benchmark.measure import alternate, seconds_each
from sigma.studies.benchmark.project import Project

QUANTILES = (0.01, 0.99)
Episodes = list[dict[str, np.ndarray]]  # state and action [n, D] of each


def train_episodes(project: Project) -> Episodes:
    """State and action of every train episode."""
    dataset, splits = project.dataset(), project.shards().meta["splits"]
    rows = [one for _, one in read_usable(dataset, splits["train"])]
    return [{STATE: one.state, ACTION: one.action} for one in rows]


def exact(episodes: Episodes) -> dict[str, dict[str, Any]]:
    """Ours, by feature: mean, std, min, max and exact quantiles over all frames."""
    return {name: feature_statistics(np.concatenate([one[name] for one in episodes])) for name in (STATE, ACTION)}


def lerobots(episodes: Episodes) -> dict[str, dict[str, Any]]:
    """LeRobot's, by feature: the same measures; quantiles from histograms by episode, averaged.

    Its function makes its five default quantiles whichever are asked for.
    """
    features = {name: {"dtype": "float32", "shape": episodes[0][name].shape[1:]} for name in (STATE, ACTION)}
    return aggregate_stats([compute_episode_stats(one, features) for one in episodes])


def quantile_error(found: dict[str, dict[str, Any]], episodes: Episodes) -> float:
    """The largest distance of q01 or q99 from NumPy's, as a share of its joint's range."""
    worst = 0.0
    for name in (STATE, ACTION):
        values = np.concatenate([one[name] for one in episodes]).astype(np.float64)
        spread = np.maximum(np.ptp(values, axis=0), 1e-12)
        for key, level in zip(("q01", "q99"), QUANTILES, strict=True):
            distance = np.abs(np.asarray(found[name][key]) - np.quantile(values, level, axis=0))
            worst = max(worst, float((distance / spread).max()))
    return worst


def five_quantiles(episodes: Episodes) -> dict[str, np.ndarray]:
    """The quantiles that LeRobot's function makes, exact, by feature [5, D]: two more than normalisation reads cost
    little."""
    return {
        name: np.quantile(np.concatenate([one[name] for one in episodes]).astype(np.float64), DEFAULT_QUANTILES, axis=0)
        for name in (STATE, ACTION)
    }


def statistics(project: Project) -> Measured:
    """Seconds of one pass over the train episodes, which lie in memory."""
    episodes, least = train_episodes(project), project.effort.seconds
    sides = {
        "own": lambda: exact(episodes),
        "peer": lambda: lerobots(episodes),
        "five": lambda: five_quantiles(episodes),
    }
    measured = {name: (lambda work=work: seconds_each(work, least)) for name, work in sides.items()}
    values = alternate(measured, project.effort)
    told = {"episodes": len(episodes), "frames": sum(len(one[STATE]) for one in episodes)}
    return Measured(
        values["own"],
        values["peer"],
        {
            **told,
            "worst_quantile_error": quantile_error(exact(episodes), episodes),
            "seconds_with_the_peers_quantiles_too": summary(
                [one + more for one, more in zip(values["own"], values["five"], strict=True)]
            ),
        },
        {**told, "worst_quantile_error": quantile_error(lerobots(episodes), episodes)},
    )


FIGURES: dict[str, Callable[[Project], Measured]] = {"statistics": statistics}
