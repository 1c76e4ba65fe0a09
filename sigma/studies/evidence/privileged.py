"""What only the simulator knows of its recorded episodes: where the cube was, and how far the task had come.

The recorded episodes are simulated again from their addresses, without rendering; the states must come out as they were
stored, or the labels would be another episode's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sigma.shared.errors import SigmaError
from sigma.shared.progress import track
from sigma.simulation.record import attempt, recorded_scenario
from sigma.simulation.scene import Layout, World
from sigma.simulation.task import Monitor, Scenario
from sigma.simulation.tasks import task_named

ATTEMPTS = 20  # the recorder's own limit


@dataclass(frozen=True)
class Truth:
    """One episode of N control steps; row i is what held when the i-th action was chosen."""

    states: np.ndarray  # float32 [N, 6], as a recording stores them
    cube: np.ndarray  # [N, 3] metres
    phase: np.ndarray  # int [N], milestones of the task passed


class _Watched(World):
    """A world that notes the cube and the milestones passed before each control step."""

    def watch(self, name: str, scenario: Scenario) -> None:
        self._task, self._scenario = task_named(name), scenario

    def reset(self, layout: Layout) -> None:
        super().reset(layout)
        self._monitor = Monitor(self._task, self._scenario, self)
        self.cubes: list[np.ndarray] = []
        self.phases: list[int] = []

    def step(self, action: np.ndarray) -> None:
        self.cubes.append(self.cube_position)
        self.phases.append(self._monitor.passed)
        super().step(action)
        self._monitor.update(self)


def phase_names(name: str) -> tuple[str, ...]:
    """The phases of a task: before its first milestone, then after each."""
    return "start", *(milestone.__name__.replace("_", " ") for milestone in task_named(name).milestones)


def resimulate(world: "_Watched", name: str, seed: int, index: int, noise: float) -> Truth:
    """The episode (seed, task ``name``, ``index``) that :func:`sigma.simulation.record.demonstration` records."""
    for tries in range(ATTEMPTS):
        address, scenario = recorded_scenario(name, seed, index, tries)
        world.watch(name, scenario)
        recorded = attempt(world, name, address, scenario, noise, (), 1)
        if recorded is not None:
            return Truth(recorded.states, np.stack(world.cubes), np.array(world.phases))
    raise SigmaError(f"{name}: no attempt of episode {index} succeeds; it is no recording of seed {seed}")


def privileged_labels(
    episodes: np.ndarray,
    steps: np.ndarray,
    states: np.ndarray,
    *,
    name: str,
    seed: int,
    noise: float,
    tolerance: float,
    source: str,
) -> dict[int, Truth]:
    """The truth of every episode among the stored frames.

    ``episodes [F]``, ``steps [F]`` and ``states [F, 6]`` (the robot's units) are the stored frames; an episode's number
    is its index in the recording. Raises :class:`SigmaError`, naming ``source``, at the first episode whose stored
    states differ from the simulated ones by more than ``tolerance``.
    """
    world, truths = _Watched(), {}
    for episode in track(np.unique(episodes).tolist(), "simulate again", len(np.unique(episodes))):
        truth = truths[episode] = resimulate(world, name, seed, episode, noise)
        stored, at = states[episodes == episode], steps[episodes == episode]
        same_shape = at.max() < len(truth.states) and stored.shape[1] == truth.states.shape[1]
        gap = float(np.abs(truth.states[at] - stored).max()) if same_shape else np.inf
        if not gap <= tolerance:
            raise SigmaError(
                f"{source}: episode {episode} as simulated again differs from the dataset's states by {gap:.3g} units "
                f"(tolerance {tolerance:g}): another recording, or another version of mujoco; legal for a dataset that "
                "the simulator did not make: diagnose.recording null"
            )
    return truths


def at_steps(truths: Mapping[int, Truth], episodes: np.ndarray, steps: np.ndarray) -> dict[str, np.ndarray]:
    """Labels of decisions: ``cube [W, 3]`` and ``phase [W]``."""
    pairs = [(truths[episode], step) for episode, step in zip(episodes.tolist(), steps.tolist(), strict=True)]
    return {
        "cube": np.stack([truth.cube[step] for truth, step in pairs]),
        "phase": np.array([truth.phase[step] for truth, step in pairs]),
    }
