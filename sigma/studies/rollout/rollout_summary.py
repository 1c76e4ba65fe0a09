"""``sigma rollout-summary``: join the arms' tables into the metrics of the closed loop; no model and no simulator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigma.simulation.setting import PLAIN_NAME, read_rollout

SIGMA, BASE, RETENTION, SPEED = "sigma", "base", "retention", "decisions_per_second"


def _speed(path: Path, arm: str, groups: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], float | None]:
    """(task, setting) -> decisions a second, from the file that stands beside the arm's table.

    Raises :class:`SigmaError` where it is missing, broken, or of another arm or other episodes.
    """
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import read_json

    again = "play the arm again with `sigma rollout`"
    clock = read_json(path)
    try:
        rates = {(row["task"], row["setting"]): row["decisions_per_second"] for row in clock["played"]}
        matching = clock["arm"] == arm and rates.keys() == groups.keys()
    except (KeyError, TypeError, AttributeError):
        raise SigmaError(f"{path}: not what `sigma rollout` writes beside its table; {again}") from None
    if not matching:
        raise SigmaError(f"{path}: is of another arm or other episodes than the table beside it; {again}")
    return rates


def _read(tables: list[Path]) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """Arm -> (task, setting) -> columns, by seed, and ``decisions_per_second``.

    Raises :class:`SigmaError` for two tables of one arm, and for tables of other episodes or parameters.
    """
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import read_table

    needed = ("task", "setting", "seed", "success", "progress", "wrong_box", "failure")
    arms: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    protocols: dict[Path, str] = {}
    for path in tables:
        table = read_table(path)
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        missing = [name for name in needed if name not in table.column_names]
        if missing or "arm" not in metadata or "protocol" not in metadata:
            raise SigmaError(f"{path}: no table of `sigma rollout` (lacks {', '.join(missing) or 'metadata'})")
        if metadata["arm"] in arms:
            raise SigmaError(f"{path}: a second table of the arm {metadata['arm']}; legal: one an arm")
        protocols[path] = metadata["protocol"]
        first = tables[0]
        if protocols[path] != protocols[first]:
            raise SigmaError(f"{path}: was played with other parameters than {first}; run `dvc repro` for both")
        groups: dict[tuple[str, str], dict[str, Any]] = {}
        for row in sorted(table.select(needed).to_pylist(), key=lambda row: row["seed"]):
            columns = groups.setdefault((row["task"], row["setting"]), {name: [] for name in needed[2:]})
            for name, values in columns.items():
                values.append(row[name])
        for key, rate in _speed(path.with_suffix(".json"), metadata["arm"], groups).items():
            groups[key][SPEED] = rate
        arms[metadata["arm"]] = groups
    played = {arm: {key: columns["seed"] for key, columns in groups.items()} for arm, groups in arms.items()}
    whole = next(iter(played))
    for arm in played:
        if played[arm] != played[whole]:
            raise SigmaError(f"the arms {whole} and {arm} did not play the same episodes; run `dvc repro` for both")
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
    arms = _read(tables)
    result: dict[str, dict[str, Any]] = {}
    for key in next(iter(arms.values())):
        name = key[0] if key[1] == PLAIN_NAME else "/".join(key)
        scores = {
            arm: score(*(groups[key][column] for column in ("success", "progress", "wrong_box", "failure")))
            for arm, groups in arms.items()
        }
        for arm, groups in arms.items():
            if groups[key][SPEED] is not None:
                scores[arm][SPEED] = groups[key][SPEED]
        paired = {}
        for arm in arms if SIGMA in arms else ():
            if arm != SIGMA:
                pair = compare(arms[SIGMA][key]["success"], arms[arm][key]["success"])
                pair["only_sigma"], pair["only_other"] = pair.pop("only_first"), pair.pop("only_second")
                paired[arm] = pair
        result[name] = {"arms": scores, "paired": paired}
    base_tasks = [task for task in section.base_tasks if (task, PLAIN_NAME) in arms.get(BASE, {})]
    if base_tasks:
        kept = {}
        for arm, groups in arms.items():
            against = {
                task: compare(groups[task, PLAIN_NAME]["success"], arms[BASE][task, PLAIN_NAME]["success"])
                for task in base_tasks
            }
            kept[arm] = retention({task: result[task]["arms"][arm] for task in base_tasks}, against)
        result[RETENTION] = {"arms": kept, "paired": {}}
    write_json(output, result)
    headline = result.get(section.target, next(iter(result.values())))["arms"]
    successes = ", ".join(f"{arm} {scores['success']:.0%}" for arm, scores in headline.items())
    return f"rollout-summary: {section.target}: {successes}"
