"""``sigma study score``: one task's arms, offline and in closed loop. Needs no model and no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.parameters import read_parameters
from sigma.studies.study.cells.arm_folder import FRAMES, SUBJECT
from sigma.studies.study.cells.parameters import StudyParameters, find, read_study, task_values
from sigma.studies.study.cells.workspace import CLOCKS, PLAYED, Workspace, model_folder

UNTRAINED = ("expert", "base")


def run(*, task: str, params: Path, output: Path) -> str:
    """Write ``output``: ``arms`` (what was trained), ``offline`` (split -> row -> errors), ``closed_loop`` (setting ->
    row -> success) and, where the base's own tasks were played, ``retention``; returns one line.

    Raises :class:`SigmaError` where something of an arm is missing, or belongs to other windows or episodes.
    """
    study = read_study(params)
    chosen = find(study.tasks, task, "tasks", params)
    report = read_parameters(Path(f"{params}: study.tasks.{task}"), task_values(study, task, params)).report

    from sigma.shared.errors import SigmaError
    from sigma.shared.files import read_json, write_json
    from sigma.studies.study.cells.arm_folder import EPISODES, read_arm_record
    from sigma.studies.study.score.closed_loop import join_seeds
    from sigma.studies.study.score.offline import SPLITS, Windows, offline_table

    arms, workspace = study.arms_of(task), Workspace.of(task)
    if SUBJECT not in arms:
        raise SigmaError(f"{params}: {SUBJECT} is not trained on {task}, with which every row is compared")
    windows = Windows.open(workspace, report)
    records: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    actions: dict[str, list[Any]] = {}
    tables = [PLAYED / task / name / EPISODES for name in UNTRAINED]
    for arm in arms:
        for seed in study.seeds:
            model, folder = model_folder(task, arm, seed), PLAYED / task / arm / str(seed)
            record = read_arm_record(model, workspace)
            if (record["task"], record["arm"], record["seed"]) != (task, arm, seed):
                raise SigmaError(f"{model}: is of another task, arm or seed than its name says")
            records[arm].append(record)
            for row, executed in windows.read_arm(folder, arm, record["kind"]).items():
                actions.setdefault(row, []).append(executed)
            tables.append(folder / EPISODES)
    played = join_seeds(tables)
    cameras = len(read_json(workspace.shards / "meta.json")["cameras"])
    result = {
        "arms": {arm: _training(study, trained, cameras) for arm, trained in records.items()},
        "offline": {split: offline_table(actions, windows, split, SUBJECT) for split in SPLITS},
        "closed_loop": _closed_loop(played, chosen.task),
    }
    if chosen.base_tasks:
        result["retention"] = _retention(played, chosen.task, chosen.base_tasks)
    write_json(output, result)
    plain = result["closed_loop"]["plain"]
    return f"score: {task}: " + ", ".join(f"{row} {entry['success']:.0%}" for row, entry in plain.items())


def _training(study: StudyParameters, records: list[dict[str, Any]], cameras: int) -> dict[str, Any]:
    """What was trained of an arm, equal for every seed but the steps whose weights were kept and the time it took; and
    the pictures that it reads at a decision."""
    from statistics import median

    from sigma.shared.records import NUMBER, read_record

    shared = {key: records[0][key] for key in ("kind", "rate", "steps", "trained_parameters")}
    selected = {str(seed): record["selected_step"] for seed, record in zip(study.seeds, records, strict=True)}
    files = [CLOCKS / record["task"] / record["arm"] / f"{record['seed']}.json" for record in records]
    seconds = median(
        read_record(file, {"seconds": NUMBER}, "run `dvc repro stages/study/dvc.yaml`")["seconds"] for file in files
    )
    pictures = cameras * (1 + FRAMES * (shared["kind"] == "frames"))
    return shared | {"selected_step": selected, "seconds": seconds, "pictures": pictures}


def _closed_loop(played: Mapping[Any, Mapping[str, Any]], task: str) -> dict[str, Any]:
    from sigma.studies.study.score.closed_loop import against, score

    settings: dict[str, Any] = {}
    for (name, setting, arm), columns in played.items():
        # The untrained ones play settings of a twin that no trained arm plays there.
        if name == task and (name, setting, SUBJECT) in played:
            entry = settings.setdefault(setting, {})[arm] = score(columns)
            if arm != SUBJECT:
                entry["sigma_minus"] = against(played[name, setting, SUBJECT], columns)
    return settings


def _retention(played: Mapping[Any, Mapping[str, Any]], target: str, tasks: list[str]) -> dict[str, Any]:
    from sigma.studies.study.score.closed_loop import knows_other_tasks, retention

    arms = dict.fromkeys(arm for name, _, arm in played if name == tasks[0])
    of = {arm: [played[name, "plain", arm] for name in tasks] for arm in arms}
    result = {arm: retention(episodes, of["base"]) for arm, episodes in of.items()}
    for arm, episodes in of.items():
        if (known := knows_other_tasks(played[target, "plain", arm], episodes)) is not None:
            result[arm]["auroc_other_task"] = known
    return result
