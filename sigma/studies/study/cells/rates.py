"""``sigma study rates``: the learning rate of every cell, which its trials chose."""

from pathlib import Path

from sigma.studies.study.cells.parameters import read_study
from sigma.studies.study.cells.workspace import TRIALS


def run(*, params: Path, output: Path) -> str:
    """Write ``output/TASK/ARM.json`` with the chosen multiplier and the validation error at each, for every cell.

    A training depends on its own file alone, so that more trials train nothing again whose rate they do not change.
    Returns one line for each arm whose best rate is the first or last of the list: there may be a better one beyond.
    """
    study = read_study(params)

    from sigma.shared.files import atomic_directory, write_json
    from sigma.studies.study.cells.parameters import choose_rate, trial_errors

    lines: dict[str, None] = {}
    with atomic_directory(output) as folder:
        for task, arm in study.cells():
            errors, rate = trial_errors(study, task, arm, TRIALS), choose_rate(study, task, arm, TRIALS)
            (folder / task).mkdir(exist_ok=True)
            write_json(
                folder / task / f"{arm}.json", {"rate": rate, "validation": {f"{k:g}": v for k, v in errors.items()}}
            )
            if rate in (min(errors), max(errors)):
                judged, of = study.arms[arm].rate_of, study.tasks[task].trials_of
                lines[
                    f"  {judged} on {of} is best at {rate:g}, an end of study.trials.rates: a better one may lie beyond"
                ] = None
    return "\n".join([f"rates: {len(study.cells())} cells", *lines])
