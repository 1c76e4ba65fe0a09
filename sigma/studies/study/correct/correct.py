"""``sigma correct``: a policy plays in the simulator and the scripted expert corrects it, as a person would a robot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigma.parameters import read_parameters
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.parameters import StudyParameters, find, read_study, task_values
from sigma.studies.study.cells.workspace import Workspace
from sigma.studies.study.play.play import Job, acting, check_simulator, controllers
from sigma.studies.study.play.players import EXPERT, Player, root_player


@dataclass(frozen=True)
class Request:
    """Which corrected successes to record: how many of a task, shared out over settings, and when the expert acts."""

    task: str
    episodes: int
    settings: list[str]
    patience: float
    at_random: bool
    seed: int


def run(*, arm: str, params: Path, workspace: Path, output: Path, **request: Any) -> str:
    """Record the corrected successes of a :class:`Request` in the LeRobotDataset ``output``.

    ``workspace`` is the folder in which the root pipeline's stages ran. Returns one line with the counts. Raises
    :class:`SigmaError` for an arm, task, setting or seed that is not legal, before anything is played.
    """
    study, place, wanted = read_study(params), Workspace(workspace), Request(**request)
    find(study.tasks, wanted.task, "tasks", params)
    if arm == EXPERT:
        raise SigmaError("arm 'expert': nothing to correct; legal: base, or a Sigma")
    return record_corrections(root_player(arm, place), wanted, study, place, params, output)


def record_corrections(
    player: Player, wanted: Request, study: StudyParameters, workspace: Workspace, params: Path, output: Path
) -> str:
    """:func:`run` for any player that has a policy."""
    task, episodes, seed = wanted.task, wanted.episodes, wanted.seed
    parameters = read_parameters(Path(f"{params}: study.tasks.{task}"), task_values(study, task, params))
    legal, play = study.all_settings(task), study.play
    chosen = {name: find(legal, name, f"play.settings of {task}", params) for name in wanted.settings}
    shares = [len(range(number, episodes, len(chosen))) for number in range(len(chosen))]
    played = range(play.first_seed, play.first_seed + max(play.episodes, play.setting_episodes, play.base_episodes))
    check_simulator()

    from sigma.shared.progress import progress
    from sigma.simulation.episode import EpisodeSpec
    from sigma.simulation.record import check_new
    from sigma.studies.study.correct.corrections import TRIES, record_corrected
    from sigma.studies.study.correct.episode import Rule

    check_new(output)
    if seed < played.stop and seed + TRIES * episodes > played.start:
        raise SigmaError(
            f"--seed: found {seed}, whose episodes are among those that arms are judged by ({played.start} to "
            f"{played.stop - 1}, study.play in {params}); legal: from {played.stop}"
        )
    jobs = []
    for (name, setting), share in zip(chosen.items(), shares, strict=True):
        spec = EpisodeSpec(study.tasks[task].task, setting.n_action_steps or play.n_action_steps, setting)
        jobs.append(Job(name, range(seed, seed + TRIES * share), spec))
        seed += TRIES * share
    loaded = controllers(player, workspace, parameters, jobs, params)
    played_by = {
        job.spec: (acting(loaded[job.spec.n_action_steps], job.spec), job.seeds, share)
        for job, share in zip(jobs, shares, strict=True)
    }
    with progress(f"correct {player.name}", episodes) as meter:
        counts, takeovers = record_corrected(
            output, played_by, Rule(wanted.patience, wanted.at_random), study.play.batch, meter
        )
    reasons = ", ".join(f"{reason} {number}" for reason, number in takeovers.most_common()) or "none"
    return (
        f"correct: {player.name} on {task}: {counts['episodes']} episodes ({counts['failed']} that failed are left "
        f"out), {counts['frames']} frames, of which {counts['corrections']} corrections; takeovers: {reasons}"
    )
