"""Episodes that a policy plays and the scripted expert corrects, as a LeRobotDataset with LeRobot's own column."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sigma.data.dataset.dataset import INTERVENTION
from sigma.shared.errors import SigmaError
from sigma.simulation.episode import EpisodeSpec
from sigma.simulation.record import frame, new_dataset
from sigma.simulation.rollout import FixedRows, RolloutPolicy
from sigma.simulation.scene import IMAGE_SIZE
from sigma.studies.study.correct.episode import CorrectedEpisode, Rule

if TYPE_CHECKING:
    from sigma.shared.progress import Meter

TRIES = 3  # times the wanted number of episodes that are played at most


def corrected(
    policy: RolloutPolicy, seeds: range, wanted: int, spec: EpisodeSpec, rule: Rule, batch: int
) -> Iterator[CorrectedEpisode]:
    """Play ``seeds`` in their order, ``batch`` at a time, until ``wanted`` have succeeded; yields all that were played.

    Raises :class:`SigmaError` where too few do.
    """
    rows, won, place = FixedRows(policy, batch), 0, 0
    while won < wanted:
        group = seeds[place : place + min(batch, wanted - won)]
        place += len(group)
        if not group:
            raise SigmaError(
                f"correct: {won} of {len(seeds)} corrected episodes of {spec.task} ended with success, {wanted} are "
                "wanted; legal: a longer --patience, or a task that the expert can save"
            )
        episodes = {seed: CorrectedEpisode(seed, spec, rule) for seed in group}
        rows.reset(list(group))
        while running := [seed for seed, episode in episodes.items() if not episode.done]:
            plans = rows.act([episodes[seed].observe() for seed in running], running)
            for seed, plan in zip(running, plans, strict=True):
                episodes[seed].execute(plan)
            policy.reset([seed for seed in running if episodes[seed].resumed])
        yield from episodes.values()
        won += sum(episode.env.monitor.success for episode in episodes.values())


def record_corrected(
    output: Path, jobs: Mapping[EpisodeSpec, tuple[RolloutPolicy, range, int]], rule: Rule, batch: int, meter: "Meter"
) -> tuple[Counter[str], Counter[str]]:
    """Write the successes of all jobs (policy, seeds, number wanted) to the new folder ``output``.

    Returns the counts ``episodes``, ``failed``, ``frames`` and ``corrections`` (frames), and the takeovers by reason.
    """
    counts, takeovers = Counter[str](), Counter[str]()
    column = {INTERVENTION: {"dtype": "bool", "shape": (1,), "names": None}}
    with new_dataset(output, IMAGE_SIZE, column) as dataset:
        for spec, (policy, seeds, wanted) in jobs.items():
            for episode in corrected(policy, seeds, wanted, spec, rule, batch):
                if not episode.env.monitor.success:
                    counts["failed"] += 1
                    continue
                for step in episode.frames:
                    row = frame(step.images, step.state, step.action, episode.env.scenario.instruction)
                    dataset.add_frame(row | {INTERVENTION: np.array([step.intervention])})
                dataset.save_episode(parallel_encoding=False)
                counts["episodes"] += 1
                counts["frames"] += len(episode.frames)
                counts["corrections"] += sum(step.intervention for step in episode.frames)
                takeovers.update(episode.takeovers)
                meter.advance(1)
    return counts, takeovers
