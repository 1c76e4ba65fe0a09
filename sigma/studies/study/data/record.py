"""``sigma study record``: the demonstrations of a task."""

from pathlib import Path

from sigma.parameters import read_parameters
from sigma.studies.study.cells.parameters import find, read_study

# Folder in a recording with demonstrations of the base's own tasks, for fetch.further.
REPLAY = "replay"


def run(*, task: str, params: Path, output: Path) -> str:
    """Record what the study lists for this task as a LeRobotDataset; returns one line with the counts.

    Raises :class:`SigmaError` for a task that is not listed, and where the simulator is not installed.
    """
    study, machine = read_study(params), read_parameters().machine
    chosen = find(study.tasks, task, "tasks", params)
    from sigma.simulation.record import record
    from sigma.simulation.scene import IMAGE_SIZE

    recording = study.recording
    counts = record(
        output, [chosen.task], [chosen.episodes], recording.seed, IMAGE_SIZE, recording.noise, machine.workers
    )
    if chosen.replay:
        tasks = chosen.base_tasks
        episodes = [chosen.replay] * len(tasks)
        record(output / REPLAY, tasks, episodes, recording.seed, IMAGE_SIZE, recording.noise, machine.workers)
    return f"{output}: {counts['episodes']} episodes, {counts['frames']} frames of {chosen.task}"
