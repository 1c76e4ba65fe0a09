"""``sigma rollout``: one arm in closed loop in the simulator, on the same fresh episodes as every other arm."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.parameters import Parameters, read_parameters
from sigma.simulation.setting import PLAIN, PLAIN_NAME, RolloutParameters, Setting, read_rollout

if TYPE_CHECKING:
    import pyarrow

    from sigma.policy.control.controller import BaseController
    from sigma.policy.control.sigma_controller import SigmaController
    from sigma.simulation.episode import EpisodeSpec
    from sigma.studies.rollout.players import Player

    Job = tuple[str, range, EpisodeSpec]


def _jobs(section: RolloutParameters) -> "list[Job]":
    """Everything that is played: the setting's name, the seeds and the episodes' kind."""
    from sigma.simulation.episode import EpisodeSpec
    from sigma.simulation.tasks import task_named

    def job(task: str, name: str, setting: Setting, episodes: int) -> "Job":
        spec = EpisodeSpec(task_named(task).name, setting.n_action_steps or section.n_action_steps, setting)
        return name, range(section.first_seed, section.first_seed + episodes), spec

    return [
        job(section.target, PLAIN_NAME, PLAIN, section.episodes),
        *(job(task, PLAIN_NAME, PLAIN, section.base_episodes) for task in section.base_tasks),
        *(job(section.target, name, setting, section.settings_episodes) for name, setting in section.settings.items()),
    ]


def _controllers(
    player: "Player", section: RolloutParameters, parameters: Parameters, jobs: "list[Job]", params: Path
) -> "dict[int, BaseController | SigmaController]":
    """The player's policy for each number of control steps that a job executes a decision.

    Raises :class:`SigmaError` for a delay beyond the plan, and for words that the base does not know.
    """
    from sigma.compute.device import open_device
    from sigma.policy.control.robot_observation import check_words
    from sigma.shared.errors import SigmaError
    from sigma.simulation.tasks import task_named
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
        for taken in dict.fromkeys(spec.n_action_steps for _, _, spec in jobs)
    }
    for name, _, spec in jobs:
        controller = controllers[spec.n_action_steps]
        longest = controller.horizon - spec.n_action_steps
        if spec.setting.delay > longest:
            raise SigmaError(
                f"{params}: rollout.settings.{name}.delay: found {spec.setting.delay}; legal: 0 to {longest}, "
                f"as {player.name} plans {controller.horizon} steps"
            )
        check_words(controller.builder.base.prompter, task_named(spec.task).texts(spec.setting))
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
    from dataclasses import replace

    import pyarrow

    from sigma.shared.files import Outputs
    from sigma.shared.progress import progress
    from sigma.simulation.episode import EpisodeSpec, RolloutResult
    from sigma.simulation.rollout import FixedRows, run_expert, run_rollouts
    from sigma.simulation.videos import choose, film, write_films

    jobs = _jobs(section)
    check_renderer()
    controllers = {} if player.name == EXPERT else _controllers(player, section, parameters, jobs, params)
    size = next((controller.builder.base.resolution for controller in controllers.values()), section.video_size)
    plain_target = {"task": section.target, "setting": PLAIN_NAME}
    rows: list[dict[str, Any]] = []
    kept: list[RolloutResult] = []
    played: list[dict[str, Any]] = []
    with (
        EpisodePool(parameters.machine.workers) as crew,
        progress(f"rollout {arm}", sum(len(seeds) for _, seeds, _ in jobs)) as meter,
    ):
        for name, seeds, job in jobs:
            started = time.perf_counter()
            spec, rate = replace(job, size=size), None
            if not controllers:
                results = run_expert(seeds, spec, crew=crew)
            else:
                policy = FixedRows(controllers[spec.n_action_steps], section.batch)
                results = run_rollouts(policy, seeds, spec, batch=section.batch, crew=crew)
                # In calls of `batch` rows, rows that are free included.
                rate = round(sum(result.decisions for result in results) / policy.seconds, 2)
            seconds = round(time.perf_counter() - started, 2)
            group = {"task": spec.task, "setting": name}
            played.append(group | {"episodes": len(results), "seconds": seconds, "decisions_per_second": rate})
            rows += [{"arm": arm, **group, **vars(result)} for result in results]
            if group == plain_target:
                kept = choose(results, section.videos)
            won = sum(result.success for result in results)
            meter.advance(len(results), f"{spec.task} {name}: {won} of {len(results)}")
        shown = EpisodeSpec(section.target, size=section.video_size)
        views = crew.replay({result.seed: result.actions for result in kept}, shown)
    write_films(videos, [film(result, views[result.seed]) for result in kept])
    # What must be equal of two arms for their episodes to be compared.
    protocol = section.model_dump(include={"first_seed", "n_action_steps", "batch", "settings"})
    metadata = {"arm": arm, "protocol": json.dumps(protocol, sort_keys=True)}
    with Outputs() as outputs:
        outputs.table(output, pyarrow.Table.from_pylist(rows, schema=_schema().with_metadata(metadata)))
        outputs.json(output.with_suffix(".json"), {"arm": arm, "played": played})
    target = [row["success"] for row in rows if {key: row[key] for key in plain_target} == plain_target]
    return f"rollout: {arm}: {section.target} {sum(target)} of {len(target)}, {len(rows)} episodes in all"


def _schema() -> "pyarrow.Schema":
    """The table's columns; of a result the actions alone are left out."""
    import pyarrow as pa

    text, count = pa.string(), pa.int64()
    columns = {"arm": text, "task": text, "setting": text, "seed": count, "instruction": text, "success": pa.bool_()}
    columns |= {"progress": pa.float64(), "wrong_box": pa.bool_(), "steps": count, "failure": text}
    return pa.schema(columns | {"milestones": count, "decisions": count})
