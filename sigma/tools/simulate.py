"""``sigma simulate``: record the scripted expert in the simulator as a LeRobotDataset v3.0."""

from pathlib import Path

from sigma.shared.errors import SigmaError


def run(
    *, tasks: list[str], episodes: list[int], seed: int, output: Path, size: int, noise: float, workers: int
) -> str:
    """Record demonstrations and return the line to print; ``episodes`` is one number for all tasks, or one for each.

    Raises :class:`SigmaError` for a number or task that is not legal, and where the simulator is not installed.
    """
    if len(episodes) == 1:
        episodes = episodes * len(tasks)
    if len(episodes) != len(tasks) or min(episodes) < 1:
        raise SigmaError(f"--episodes: {episodes} for {len(tasks)} tasks; legal: one number ≥ 1 for all, or one a task")
    if len(set(tasks)) != len(tasks):
        raise SigmaError(f"--task: {', '.join(tasks)}: a task is named twice")
    from sigma.simulation.record import record

    counts = record(Path(output), tasks, episodes, seed, size, noise, workers)
    return (
        f"{output}: {counts['episodes']} episodes, {counts['frames']} frames, "
        f"{counts['rejected']} failed attempts left out"
    )
