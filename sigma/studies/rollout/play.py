"""``sigma rollout``: one arm in closed loop in the simulator, on the same fresh episodes as every other arm."""

from pathlib import Path
from typing import Any

from sigma.simulation.setting import PLAIN, PLAIN_NAME, RolloutParameters, read_rollout


def _jobs(section: RolloutParameters, params: Path) -> list[tuple[str, str, Any, range]]:
    """Task, setting's name, setting and seeds of everything that is played."""
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
    first = section.first_seed
    jobs = [(section.target, PLAIN_NAME, PLAIN, range(first, first + section.episodes))]
    for task in section.base_tasks:
        jobs.append((task_named(task).name, PLAIN_NAME, PLAIN, range(first, first + section.base_episodes)))
    for name, setting in section.settings.items():
        jobs.append((section.target, name, setting, range(first, first + section.settings_episodes)))
    return jobs


def run(*, arm: str, model: Path | None, params: Path, output: Path, videos: Path) -> str:
    """Play every episode of one arm; writes one row an episode, its speed and a folder of videos; returns one line.

    The table is the same to the bit when the arm is played again. What a clock says stands in a file beside it,
    ``ARM.json``: ``arm``, and ``played``, a row for each task and setting with the episodes, the seconds that they took
    and the policy's decisions a second, in calls of ``batch`` rows (None for the expert, who has no policy).

    Args:
        arm: its name, see :mod:`sigma.studies.rollout.players`.
        model: the folder of a trained arm; None for those of the main pipeline.
        params: file with the section ``rollout``.
        output: the table, ``ARM.parquet``; the clock's file has its name with the ending json.
        videos: the folder for mp4 files and the contact sheet of the target.
    """
    section = read_rollout(params)
    from sigma.parameters import read_parameters

    whole = read_parameters()
    from sigma.shared.errors import SigmaError
    from sigma.studies.rollout.players import EXPERT, find_arm, load_arm, read_base

    if output.suffix != ".parquet":
        raise SigmaError(f"{output}: legal: a name that ends with .parquet")
    player = find_arm(arm, model)
    try:
        from sigma.simulation.parallel import EpisodePool, check_renderer
    except ModuleNotFoundError as error:
        if error.name not in ("mujoco", "so101_nexus", "gymnasium"):
            raise
        raise SigmaError(f"rollout: {error.name} is not installed; install the extra 'simulation'") from None

    import json
    import time

    import pyarrow

    from sigma.compute.device import open_device
    from sigma.shared.files import Outputs
    from sigma.shared.progress import progress
    from sigma.simulation.episode import EpisodeSpec, RolloutResult
    from sigma.simulation.rollout import FixedRows, run_expert, run_rollouts
    from sigma.simulation.videos import choose, film, write_films

    jobs = _jobs(section, params)
    check_renderer()
    machine = whole.machine
    controllers, size = {}, section.video_size
    if player.name != EXPERT:
        from sigma.policy.control.robot_observation import check_words

        reference, features = read_base()
        for taken in dict.fromkeys(setting.n_action_steps or section.n_action_steps for _, _, setting, _ in jobs):
            controllers[taken] = load_arm(
                player,
                reference=reference,
                features=features,
                adapter=whole.adapter.model_dump(),
                n_action_steps=taken,
                device=open_device(machine),
                dtype=features["dtype"],
            )
        builder, horizon = controllers[section.n_action_steps].builder, controllers[section.n_action_steps].horizon
        size = builder.base.resolution
        for _, name, setting, _ in jobs:
            taken = setting.n_action_steps or section.n_action_steps
            if taken + setting.delay > horizon:
                raise SigmaError(
                    f"{params}: rollout.settings.{name}.delay: found {setting.delay}; legal: 0 to {horizon - taken}, "
                    f"as {arm} plans {horizon} steps"
                )
            check_words(builder.base.prompter, setting.wordings)
    rows: list[dict[str, Any]] = []
    kept: list[RolloutResult] = []
    played: list[dict[str, Any]] = []
    with (
        EpisodePool(machine.workers) as crew,
        progress(f"rollout {arm}", sum(len(seeds) for *_, seeds in jobs)) as meter,
    ):
        for task, name, setting, seeds in jobs:
            started = time.perf_counter()
            taken = setting.n_action_steps or section.n_action_steps
            spec = EpisodeSpec(task, taken, setting, size=size)
            rate = None
            if not controllers:
                results = run_expert(seeds, spec, crew=crew)
            else:
                policy = FixedRows(controllers[taken], section.batch)
                results = run_rollouts(policy, seeds, spec, batch=section.batch, crew=crew)
                decided = sum(result.decisions for result in results)
                # In calls of `batch` rows, rows that are free included.
                rate = round(decided / policy.seconds, 2)
            seconds = round(time.perf_counter() - started, 2)
            clock = {"seconds": seconds, "decisions_per_second": rate}
            played.append({"task": task, "setting": name, "episodes": len(results), **clock})
            rows += [{"arm": arm, "task": task, "setting": name} | _row(result) for result in results]
            if (task, name) == (section.target, PLAIN_NAME):
                kept = choose(results, section.videos)
            won = sum(result.success for result in results)
            meter.advance(len(results), f"{task} {name}: {won} of {len(results)}")
        spec = EpisodeSpec(section.target, size=section.video_size)
        views = crew.replay({result.seed: result.actions for result in kept}, spec)
    write_films(videos, [film(result, views[result.seed]) for result in kept])
    protocol = {
        "first_seed": section.first_seed,
        "n_action_steps": section.n_action_steps,
        "batch": section.batch,
        "settings": {name: setting.model_dump() for name, setting in section.settings.items()},
    }
    metadata = {"arm": arm, "protocol": json.dumps(protocol, sort_keys=True)}
    with Outputs() as outputs:
        outputs.table(output, pyarrow.Table.from_pylist(rows, schema=_schema().with_metadata(metadata)))
        outputs.json(output.with_suffix(".json"), {"arm": arm, "played": played})
    target = [row["success"] for row in rows if (row["task"], row["setting"]) == (section.target, PLAIN_NAME)]
    return f"rollout: {arm}: {section.target} {sum(target)} of {len(target)}, {len(rows)} episodes in all"


def _schema() -> Any:
    import pyarrow as pa

    text, count = pa.string(), pa.int64()
    columns = {"arm": text, "task": text, "setting": text, "seed": count, "instruction": text, "success": pa.bool_()}
    columns |= {"progress": pa.float64(), "wrong_box": pa.bool_(), "steps": count, "failure": text}
    return pa.schema(columns | {"milestones": count, "decisions": count})


def _row(result: Any) -> dict[str, Any]:
    names = ("seed", "instruction", "success", "progress", "wrong_box", "steps", "failure", "milestones", "decisions")
    return {name: getattr(result, name) for name in names}
