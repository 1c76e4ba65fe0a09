"""``sigma study trial``: one arm at one learning rate, for its validation error alone."""

from pathlib import Path

from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.parameters import cell_parameters, check_cell, read_study
from sigma.studies.study.cells.workspace import Workspace, cell_file


def run(*, task: str, arm: str, rate: float, params: Path, output: Path) -> str:
    """Train and write ``{"validation"}``; test windows are not looked at; returns one line.

    Raises :class:`SigmaError` for an arm without trials or a rate that is not in the list, before any long work.
    """
    study = read_study(params)
    check_cell(study, task, arm, params)
    trials = study.trials
    if arm not in trials.arms or task not in trials.tasks:
        judged, of = study.arms[arm].rate_of, study.tasks[task].trials_of
        raise SigmaError(f"{params}: {arm} on {task} has no trials of its own, it takes the rate of {judged} on {of}")
    if rate not in trials.rates:
        legal = ", ".join(f"{value:g}" for value in trials.rates)
        raise SigmaError(f"{params}: study.trials.rates: no rate {rate:g}; legal: {legal}")
    parameters = cell_parameters(cell_file(task, arm), seed=trials.seed, rate=rate)

    from sigma.shared.files import write_json
    from sigma.studies.study.train.training import trained_arm

    with trained_arm(study.arms[arm].kind, Workspace.of(task), parameters) as result:
        write_json(output, {"validation": result.validation})
    return f"trial: {arm} on {task} at {rate:g} times the rates: validation flow loss {result.validation:.5f}"
