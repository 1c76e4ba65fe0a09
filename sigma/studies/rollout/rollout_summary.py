"""``sigma rollout-summary``: join the arms' tables into the metrics of the closed loop; no model and no simulator."""

from pathlib import Path
from typing import Any

from sigma.simulation.setting import PLAIN_NAME, read_rollout

SIGMA, BASE, RETENTION, SPEED = "sigma", "base", "retention", "decisions_per_second"
SCORED = ("success", "progress", "wrong_box", "failure")  # columns that the scores are made of
Groups = dict[tuple[str, str], dict[str, Any]]  # (task, setting) -> columns, by seed, and decisions_per_second


def _read_groups(path: Path, arm: str, rows: list[dict[str, Any]]) -> Groups:
    """The arm's episodes by task and setting, with the speeds from the file that stands beside its table.

    Raises :class:`SigmaError` where that file is missing, broken, or of another arm or other episodes.
    """
    from sigma.shared.errors import SigmaError
    from sigma.shared.records import read_record

    groups: Groups = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        columns = groups.setdefault((row["task"], row["setting"]), {name: [] for name in ("seed", *SCORED)})
        for name, values in columns.items():
            values.append(row[name])
    again = "play the arm again with `sigma rollout`"
    file = path.with_suffix(".json")
    form = {"arm": str, "played": [{"task": str, "setting": str, SPEED: float | None}]}
    clock = read_record(file, form, again)
    rates = {(played["task"], played["setting"]): played[SPEED] for played in clock["played"]}
    if clock["arm"] != arm or rates.keys() != groups.keys():
        raise SigmaError(f"{file}: is of another arm or other episodes than the table beside it; {again}")
    for key, rate in rates.items():
        groups[key][SPEED] = rate
    return groups


def _read_arms(tables: list[Path]) -> dict[str, Groups]:
    """Every arm's episodes; raises :class:`SigmaError` for two tables of one arm, and for tables of other episodes or
    parameters."""
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import read_table
    from sigma.shared.tables import metadata_of

    needed = ("task", "setting", "seed", *SCORED)
    arms: dict[str, Groups] = {}
    protocol = None
    for path in tables:
        table = read_table(path)
        metadata = metadata_of(table)
        missing = [name for name in needed if name not in table.column_names]
        if missing or not {"arm", "protocol"} <= metadata.keys():
            raise SigmaError(f"{path}: no table of `sigma rollout` (lacks {', '.join(missing) or 'metadata'})")
        arm = metadata["arm"]
        if arm in arms:
            raise SigmaError(f"{path}: a second table of the arm {arm}; legal: one an arm")
        protocol = protocol or metadata["protocol"]
        if metadata["protocol"] != protocol:
            raise SigmaError(f"{path}: was played with other parameters than {tables[0]}; run `dvc repro` for both")
        arms[arm] = _read_groups(path, arm, table.select(needed).to_pylist())
    played = {arm: {key: columns["seed"] for key, columns in groups.items()} for arm, groups in arms.items()}
    first = next(iter(played))
    for arm in played:
        if played[arm] != played[first]:
            raise SigmaError(f"the arms {first} and {arm} did not play the same episodes; run `dvc repro` for both")
    return arms


def run(*, tables: list[Path], params: Path, output: Path) -> str:
    """Score every arm and compare :data:`SIGMA` with each other one; writes the metrics file; returns one line.

    The file maps a task, ``TASK/SETTING`` for a harder setting, and ``retention`` (the mean of the base's own tasks,
    where the base is among the arms) to ``arms`` (arm -> scores) and ``paired`` (arm -> Sigma against it).
    """
    from sigma.evaluation.success import compare, retention, score
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import write_json

    section = read_rollout(params)
    if not tables:
        raise SigmaError("rollout-summary: no table given; legal: at least one that `sigma rollout` wrote")
    arms = _read_arms(tables)
    result: dict[str, dict[str, Any]] = {}
    for key in next(iter(arms.values())):
        scores, paired = {}, {}
        for arm, groups in arms.items():
            scores[arm] = score(*(groups[key][name] for name in SCORED))
            if groups[key][SPEED] is not None:
                scores[arm][SPEED] = groups[key][SPEED]
            if SIGMA in arms and arm != SIGMA:
                pair = compare(arms[SIGMA][key]["success"], groups[key]["success"])
                pair["only_sigma"], pair["only_other"] = pair.pop("only_first"), pair.pop("only_second")
                paired[arm] = pair
        name = key[0] if key[1] == PLAIN_NAME else "/".join(key)
        result[name] = {"arms": scores, "paired": paired}
    base_tasks = [task for task in section.base_tasks if (task, PLAIN_NAME) in arms.get(BASE, {})]
    if base_tasks:
        kept = {}
        for arm, groups in arms.items():
            against = {
                task: compare(*(player[task, PLAIN_NAME]["success"] for player in (groups, arms[BASE])))
                for task in base_tasks
            }
            kept[arm] = retention({task: result[task]["arms"][arm] for task in base_tasks}, against)
        result[RETENTION] = {"arms": kept, "paired": {}}
    write_json(output, result)
    headline = result.get(section.target, next(iter(result.values())))["arms"]
    successes = ", ".join(f"{arm} {scores['success']:.0%}" for arm, scores in headline.items())
    return f"rollout-summary: {section.target}: {successes}"
