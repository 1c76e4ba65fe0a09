"""``sigma study cells``: what every stage of the study depends on of the parameters, in files of their own.

A stage of DVC that listed sections would run again, and fill its lock, for keys that do not concern it. Of these files
only those change that do.
"""

from pathlib import Path
from typing import Any

from sigma.shared.files import atomic_directory
from sigma.studies.study.cells.parameters import arm_values, read_study, task_values

DATA = ("fetch", "audit", "window", "base")
# The sections that a kind of arm is trained by.
TRAINING = {
    "sigma": ("lora", "loss", "telepathy", "train"),
    **dict.fromkeys(("lora", "frames"), ("lora", "loss", "train")),
    "full": ("loss", "train"),
}


def run(*, params: Path, output: Path) -> str:
    """Write for every task what its data and its episodes depend on, and for every arm what its training depends on.

    A value that is not legal is refused here, before any long work.
    """
    study = read_study(params)
    files: dict[str, dict[str, Any]] = {}
    for name, task in study.tasks.items():
        values = task_values(study, name, params)
        files[f"{name}/data.yaml"] = {"task": task.task} | {section: values[section] for section in DATA}
        played = {"task": task.task, "base_tasks": task.base_tasks, "adapter": values["adapter"]}
        settings = {setting: changes.model_dump() for setting, changes in study.all_settings(name).items()}
        files[f"{name}/play.yaml"] = played | {"play": study.play.model_dump(), "settings": settings}
    for name, arm in study.cells():
        values = arm_values(study, name, arm, params)
        kind = study.arms[arm].kind
        trained = {section: values[section] for section in TRAINING[kind]}
        files[f"{name}/arms/{arm}.yaml"] = {"kind": kind} | trained

    from ruamel.yaml import YAML

    with atomic_directory(output) as folder:
        for file, values in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as stream:
                YAML(typ="safe").dump(values, stream)
    return f"study: {len(study.cells())} cells, each at the seeds {', '.join(map(str, study.seeds))}"
