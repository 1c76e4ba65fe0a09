"""``sigma correct``: a policy plays in the simulator and the scripted expert corrects it, as a person would a robot."""

from pathlib import Path

from sigma.parameters import Parameters, read_parameters
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.parameters import StudyParameters, find, read_study, task_values
from sigma.studies.study.cells.workspace import Workspace
from sigma.studies.study.play.play import check_simulator
from sigma.studies.study.play.players import EXPERT, Player, load_player, read_base, root_player


def run(
    *,
    arm: str,
    task: str,
    episodes: int,
    settings: list[str],
    patience: float,
    at_random: bool,
    seed: int,
    params: Path,
    workspace: Path,
    output: Path,
) -> str:
    """Record ``episodes`` corrected successes in the LeRobotDataset ``output``, shared out over ``settings``.

    ``workspace`` is the folder in which the root pipeline's stages ran. Returns one line with the counts. Raises
    :class:`SigmaError` for an arm, task, setting or seed that is not legal, before anything is played.
    """
    study, place = read_study(params), Workspace(workspace)
    find(study.tasks, task, "tasks", params)
    if arm == EXPERT:
        raise SigmaError("arm 'expert': nothing to correct; legal: base, or a Sigma")
    return record_corrections(
        root_player(arm, place),
        study,
        read_parameters(Path(f"{params}: study.tasks.{task}"), task_values(study, task, params)),
        place,
        params,
        task=task,
        episodes=episodes,
        settings=settings,
        patience=patience,
        at_random=at_random,
        seed=seed,
        output=output,
    )


def record_corrections(
    player: Player,
    study: StudyParameters,
    parameters: Parameters,
    workspace: Workspace,
    params: Path,
    *,
    task: str,
    episodes: int,
    settings: list[str],
    patience: float,
    at_random: bool,
    seed: int,
    output: Path,
) -> str:
    """:func:`run` for any player that has a policy."""
    legal, play = study.all_settings(task), study.play
    chosen = {name: find(legal, name, f"play.settings of {task}", params) for name in settings or ["plain"]}
    shares = [len(range(number, episodes, len(chosen))) for number in range(len(chosen))]
    played = range(play.first_seed, play.first_seed + max(play.episodes, play.setting_episodes, play.base_episodes))
    check_simulator()

    from sigma.compute.device import open_device
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
    reference, features = read_base(workspace)
    jobs = {}
    for setting, share in zip(chosen.values(), shares, strict=True):
        spec = EpisodeSpec(study.tasks[task].task, setting.n_action_steps or play.n_action_steps, setting)
        controller = load_player(
            player,
            reference=reference,
            features=features,
            adapter=parameters.adapter.model_dump(),
            n_action_steps=spec.n_action_steps,
            device=open_device(parameters.machine),
        )
        jobs[spec] = controller, range(seed, seed + TRIES * share), share
        seed += TRIES * share
    with progress(f"correct {player.name}", episodes) as meter:
        counts, takeovers = record_corrected(output, jobs, Rule(patience, at_random), study.play.batch, meter)
    reasons = ", ".join(f"{reason} {number}" for reason, number in takeovers.most_common()) or "none"
    return (
        f"correct: {player.name} on {task}: {counts['episodes']} episodes ({counts['failed']} that failed are left "
        f"out), {counts['frames']} frames, of which {counts['corrections']} corrections; takeovers: {reasons}"
    )
