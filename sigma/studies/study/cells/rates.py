"""``sigma study rates``: the learning rate of every cell, which its trials chose."""

from pathlib import Path

from sigma.studies.study.cells.parameters import read_study
from sigma.studies.study.cells.workspace import TRIALS


def run(*, params: Path, output: Path) -> str:
    """Write ``output/TASK/ARM.json`` with the chosen multiplier for every cell; of equally good ones the smallest.

    A training depends on its own file alone, so that more trials train nothing again whose rate they do not change.
    Returns a line for each arm with trials, and says where the best rate is the first or last of the list: there may be
    a better one beyond.
    """
    study = read_study(params)

    from sigma.shared.files import atomic_directory, write_json
    from sigma.studies.study.cells.parameters import trial_errors

    lines: dict[str, None] = {}
    with atomic_directory(output) as folder:
        for task, arm in study.cells():
            errors = trial_errors(study, task, arm, TRIALS)
            rate = min(errors, key=lambda tried: (errors[tried], tried))
            (folder / task).mkdir(exist_ok=True)
            write_json(folder / task / f"{arm}.json", {"rate": rate})
            found = ", ".join(f"{tried:g}: {error:.4f}" for tried, error in errors.items())
            line = f"  {study.arms[arm].rate_of} on {study.tasks[task].trials_of}: {rate:g} (validation {found})"
            at_end = rate in (min(errors), max(errors))
            lines[line + (", an end of study.trials.rates: a better one may lie beyond" if at_end else "")] = None
    return "\n".join([f"rates: {len(study.cells())} cells", *lines])
