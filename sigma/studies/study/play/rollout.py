"""``sigma rollout``: a player of the root pipeline in closed loop."""

from pathlib import Path
from typing import TYPE_CHECKING

from sigma.parameters import read_parameters
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.parameters import find, read_study, task_values
from sigma.studies.study.cells.workspace import Workspace
from sigma.studies.study.play.play import Played, check_simulator, jobs_of, play, table_rows, write_played
from sigma.studies.study.play.players import root_player

if TYPE_CHECKING:
    from sigma.simulation.parallel import EpisodePool

SHEET = "contact_sheet.png"  # what sigma.simulation.videos writes beside the films
FILMED, VIDEO_SIZE = 2, 160  # successes and as many failures; side of a camera's picture in pixels


def run(
    *, task: str, arm: str, settings: list[str], params: Path, workspace: Path, output: Path, videos: Path | None
) -> str:
    """Play the episodes that the study lists for a task, with the expert, the frozen base or the trained Sigma.

    By default those are all settings and the base's own tasks, else ``settings`` alone. ``workspace`` is the folder in
    which the root pipeline's stages ran, ``output`` the table to write. With ``videos``, successes and failures of the
    lowest seeds are filmed into that folder. Returns one line with the successes.
    """
    study = read_study(params)
    chosen = find(study.tasks, task, "tasks", params)
    every = study.all_settings(task)
    wanted = {name: find(every, name, f"play.settings of {task}", params) for name in settings}
    parameters = read_parameters(Path(f"{params}: study.tasks.{task}"), task_values(study, task, params))
    if output.suffix != ".parquet":
        raise SigmaError(f"{output}: legal: a name that ends with .parquet")
    if videos is not None and videos.exists() and any(videos.iterdir()) and not (videos / SHEET).is_file():
        raise SigmaError(
            f"--videos {videos}: holds something else; legal: a folder that is new, empty or of an earlier run"
        )
    place = Workspace(workspace)
    player = root_player(arm, place)
    check_simulator()

    from sigma.simulation.parallel import EpisodePool

    jobs = jobs_of(study, task, wanted or every, [] if wanted else chosen.base_tasks)
    with EpisodePool(parameters.machine.workers) as crew:
        played, clocks = play(player, jobs, place, parameters, params, batch=study.play.batch, crew=crew)
        if videos is not None:
            _film(videos, played[0], crew)
    write_played(output, table_rows(player, played), clocks, study)
    results = played[0].results
    won = sum(result.success for result in results)
    lines = [
        f"rollout: {arm}: {task} {won} of {len(results)}, {sum(len(one.results) for one in played)} episodes in all"
    ]
    lines += [
        f"  the gate held {arm} back by more than half in {one.held_back} of {len(one.results)} episodes of "
        f"{one.job.spec.task}, {one.job.setting} (column held_back says when and why)"
        for one in played
        if one.held_back
    ]
    return "\n".join(lines)


def _film(folder: Path, played: Played, crew: "EpisodePool") -> None:
    from dataclasses import replace

    from sigma.simulation.videos import choose, film, write_films

    job, kept = played.job, choose(played.results, FILMED)
    views = crew.replay({result.seed: result.actions for result in kept}, replace(job.spec, size=VIDEO_SIZE))
    write_films(folder, [film(result, views[result.seed]) for result in kept])
