"""``sigma rollout``: one arm in closed loop in the simulator, on the same fresh episodes as every other arm."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sigma.parameters import Parameters, read_parameters
from sigma.simulation.setting import PLAIN, PLAIN_NAME, RolloutParameters, Setting, read_rollout

if TYPE_CHECKING:
    import pyarrow

    from sigma.policy.control.controller import BaseController
    from sigma.policy.control.sigma_controller import SigmaController
    from sigma.studies.rollout.players import Player


class Job(NamedTuple):
    """Episodes of one task and setting; ``taken`` control steps are executed a decision."""

    task: str
    name: str
    setting: Setting
    seeds: range
    taken: int


def _jobs(section: RolloutParameters, params: Path) -> list[Job]:
    """Everything that is played; ``params`` is the file's name for messages."""
    from sigma.shared.errors import SigmaError
    from sigma.simulation.env import TEXT
    from sigma.simulation.tasks import task_named

    known = task_named(section.target).instructions
    for name, setting in section.settings.items():
        key = f"{params}: rollout.settings.{name}.paraphrases"
        for instruction in setting.paraphrases:
            if instruction not in known:
                raise SigmaError(f"{key}: no instruction {instruction!r}; legal: {', '.join(known)}")
        for text in setting.wordings:
            if not TEXT.contains(text):
                raise SigmaError(f"{key}: found {text!r}; legal: 1 to 80 small letters and spaces")

    def job(task: str, name: str, setting: Setting, episodes: int) -> Job:
        seeds = range(section.first_seed, section.first_seed + episodes)
        return Job(task_named(task).name, name, setting, seeds, setting.n_action_steps or section.n_action_steps)

    return [
        job(section.target, PLAIN_NAME, PLAIN, section.episodes),
        *(job(task, PLAIN_NAME, PLAIN, section.base_episodes) for task in section.base_tasks),
        *(job(section.target, name, setting, section.settings_episodes) for name, setting in section.settings.items()),
    ]


def _controllers(
    player: "Player", section: RolloutParameters, parameters: Parameters, jobs: list[Job], params: Path
) -> "dict[int, BaseController | SigmaController]":
    """The player's policy for each number of control steps that a job executes a decision.

    Raises :class:`SigmaError` for a delay beyond the plan, and for words that the base does not know.
    """
    from sigma.compute.device import open_device
    from sigma.policy.control.robot_observation import check_words
    from sigma.shared.errors import SigmaError
    from sigma.studies.rollout.players import load_player, read_base

    reference, features = read_base()
    controllers = {
        taken: load_player(
            player,
            reference=reference,
            features=features,
            adapter=parameters.adapter.model_dump(),
            n_action_steps=taken,
            device=open_device(parameters.machine),
        )
        for taken in dict.fromkeys(job.taken for job in jobs)
    }
    for job in jobs:
        controller = controllers[job.taken]
        if job.taken + job.setting.delay > controller.horizon:
            raise SigmaError(
                f"{params}: rollout.settings.{job.name}.delay: found {job.setting.delay}; legal: 0 to "
                f"{controller.horizon - job.taken}, as {player.name} plans {controller.horizon} steps"
            )
        check_words(controller.builder.base.prompter, job.setting.wordings)
    return controllers


def run(*, arm: str, model: Path | None, params: Path, output: Path, videos: Path) -> str:
    """Play every episode of one arm; writes one row an episode, its speed and a folder of videos; returns one line.

    The table is the same to the bit when the arm is played again. What a clock says stands in a file beside it,
    ``ARM.json``: ``arm``, and ``played``, a row for each task and setting with the episodes, the seconds that they took
    and the policy's decisions a second, in calls of ``batch`` rows (None for the expert, who has no policy).
    ``model`` is the folder of a trained arm, None for the players of the main pipeline.
    """
    section, parameters = read_rollout(params), read_parameters()

    from sigma.shared.errors import SigmaError
    from sigma.studies.rollout.players import EXPERT, find_player

    if output.suffix != ".parquet":
        raise SigmaError(f"{output}: legal: a name that ends with .parquet")
    player = find_player(arm, model)
    try:
        from sigma.simulation.parallel import EpisodePool, check_renderer
    except ModuleNotFoundError as error:
        if error.name not in ("mujoco", "so101_nexus", "gymnasium"):
            raise
        raise SigmaError(f"rollout: {error.name} is not installed; install the extra 'simulation'") from None

    import json
    import time

    import pyarrow

    from sigma.shared.files import Outputs
    from sigma.shared.progress import progress
    from sigma.simulation.episode import EpisodeSpec, RolloutResult
    from sigma.simulation.rollout import FixedRows, run_expert, run_rollouts
    from sigma.simulation.videos import choose, film, write_films

    jobs = _jobs(section, params)
    check_renderer()
    controllers = {} if player.name == EXPERT else _controllers(player, section, parameters, jobs, params)
    size = next((controller.builder.base.resolution for controller in controllers.values()), section.video_size)
    rows: list[dict[str, Any]] = []
    kept: list[RolloutResult] = []
    played: list[dict[str, Any]] = []
    with (
        EpisodePool(parameters.machine.workers) as crew,
        progress(f"rollout {arm}", sum(len(job.seeds) for job in jobs)) as meter,
    ):
        for task, name, setting, seeds, taken in jobs:
            started = time.perf_counter()
            spec = EpisodeSpec(task, taken, setting, size=size)
            rate = None
            if not controllers:
                results = run_expert(seeds, spec, crew=crew)
            else:
                policy = FixedRows(controllers[taken], section.batch)
                results = run_rollouts(policy, seeds, spec, batch=section.batch, crew=crew)
                # In calls of `batch` rows, rows that are free included.
                rate = round(sum(result.decisions for result in results) / policy.seconds, 2)
            seconds = round(time.perf_counter() - started, 2)
            group = {"task": task, "setting": name}
            played.append(group | {"episodes": len(results), "seconds": seconds, "decisions_per_second": rate})
            rows += [{"arm": arm, **group, **vars(result)} for result in results]
            if (task, name) == (section.target, PLAIN_NAME):
                kept = choose(results, section.videos)
            won = sum(result.success for result in results)
            meter.advance(len(results), f"{task} {name}: {won} of {len(results)}")
        spec = EpisodeSpec(section.target, size=section.video_size)
        views = crew.replay({result.seed: result.actions for result in kept}, spec)
    write_films(videos, [film(result, views[result.seed]) for result in kept])
    # What must be equal of two arms for their episodes to be compared.
    protocol = section.model_dump(include={"first_seed", "n_action_steps", "batch", "settings"})
    metadata = {"arm": arm, "protocol": json.dumps(protocol, sort_keys=True)}
    with Outputs() as outputs:
        outputs.table(output, pyarrow.Table.from_pylist(rows, schema=_schema().with_metadata(metadata)))
        outputs.json(output.with_suffix(".json"), {"arm": arm, "played": played})
    target = [row["success"] for row in rows if (row["task"], row["setting"]) == (section.target, PLAIN_NAME)]
    return f"rollout: {arm}: {section.target} {sum(target)} of {len(target)}, {len(rows)} episodes in all"


def _schema() -> "pyarrow.Schema":
    """The table's columns; of a result the actions alone are left out."""
    import pyarrow as pa

    text, count = pa.string(), pa.int64()
    columns = {"arm": text, "task": text, "setting": text, "seed": count, "instruction": text, "success": pa.bool_()}
    columns |= {"progress": pa.float64(), "wrong_box": pa.bool_(), "steps": count, "failure": text}
    return pa.schema(columns | {"milestones": count, "decisions": count})
