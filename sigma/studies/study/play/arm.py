"""``sigma study play``: a trained arm at every seed, on the held-out windows and in closed loop."""

from pathlib import Path
from typing import Any

from sigma.parameters import read_parameters
from sigma.shared.errors import SigmaError
from sigma.simulation.setting import PLAIN, PLAIN_NAME
from sigma.studies.study.cells.arm_folder import EPISODES, FULL_SCALE, GATED, HALF, MEMORY_RESET, MODEL, read_arm_record
from sigma.studies.study.cells.parameters import check_cell, read_study, task_values
from sigma.studies.study.cells.workspace import Workspace, model_folder
from sigma.studies.study.play.play import check_simulator, jobs_of, play, table_rows, write_played
from sigma.studies.study.play.players import arm_players


def run(*, task: str, arm: str, settings: str, params: Path, output: Path) -> str:
    """Write the folder ``output`` with a folder for each seed: predictions, calibrated adapter and episodes.

    The arm's first variant plays these ``settings`` (all, the task's own beside the plain one, or the plain one), the
    others the plain one; the base's own tasks are played with the gate
    and without, and with half of a LoRA. Returns one line with the successes.
    """
    study = read_study(params)
    check_cell(study, task, arm, params)
    chosen = study.tasks[task]
    alone = {PLAIN_NAME: PLAIN}
    legal = {"all": study.all_settings(task), "own": alone | chosen.settings, "plain": alone}
    if settings not in legal:
        raise SigmaError(f"--settings: found {settings!r}; legal: {', '.join(legal)}")
    parameters = read_parameters(Path(f"{params}: study.tasks.{task}"), task_values(study, task, params))
    workspace = Workspace.of(task)
    models = {seed: model_folder(task, arm, seed) for seed in study.seeds}
    records = {seed: read_arm_record(model, workspace) for seed, model in models.items()}
    for seed, record in records.items():
        if record["kind"] != study.arms[arm].kind:
            raise SigmaError(
                f"{models[seed]}: kind: found {record['kind']}; {params} says {study.arms[arm].kind}; train it again "
                f"(dvc repro -f -s stages/study/dvc.yaml:train@{task}-{arm}-{seed})"
            )
    check_simulator()

    from sigma.shared.files import atomic_directory
    from sigma.simulation.parallel import EpisodePool
    from sigma.studies.study.play.predict import predict
    from sigma.studies.study.train.training import load_arm_batches

    base_tasks = chosen.base_tasks
    every = jobs_of(study, task, legal[settings], base_tasks)
    plain, kept = (jobs_of(study, task, {PLAIN_NAME: PLAIN}, others) for others in ([], base_tasks))
    won: list[str] = []
    with atomic_directory(output) as temporary, EpisodePool(parameters.machine.workers) as crew:
        for seed, model in models.items():
            folder = temporary / str(seed)
            folder.mkdir()
            predict(records[seed], model, load_arm_batches(workspace, parameters), parameters, folder)
            rows: list[dict[str, Any]] = []
            clocks: list[dict[str, Any]] = []
            for number, player in enumerate(arm_players(model, folder, workspace)):
                if player.variant == MEMORY_RESET and not _remembers(model):
                    continue  # it would play as at full scale
                jobs = every if not number else kept if player.variant in (FULL_SCALE, GATED, HALF) else plain
                played, measured = play(player, jobs, workspace, parameters, params, batch=study.play.batch, crew=crew)
                rows += table_rows(player, played)
                clocks += measured
                if not number:
                    won.append(str(sum(result.success for result in played[0].results)))
            write_played(folder / EPISODES, rows, clocks, study)
    return f"play: {arm} on {task}: {', '.join(won)} of {study.play.episodes} episodes, one number a training seed"


def _remembers(folder: Path) -> bool:
    """Whether the Sigma in a trained arm's folder carries memory from decision to decision."""
    from sigma.policy.model.model_folder import read_config

    return read_config(folder / MODEL)["sizes"]["memory"] == "carried"
