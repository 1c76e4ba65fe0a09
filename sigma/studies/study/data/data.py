"""``sigma study data``: the root pipeline's first stages on a task's recording."""

import os
import subprocess
import sys
from pathlib import Path

from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.parameters import find, read_study, task_values

STAGES = ("fetch", "audit", "window", "baseline")


def run(*, task: str, params: Path, recording: Path, output: Path) -> str:
    """Window a task's recording and compute what the frozen base does on it: the root pipeline's first stages.

    Writes the folder ``output`` with ``data/`` as those stages do, whole or not at all. Raises :class:`SigmaError`
    where a stage refuses its input; the stage has said why.
    """
    study = read_study(params)
    find(study.tasks, task, "tasks", params)
    values = task_values(study, task, params)
    if not recording.is_dir():
        raise SigmaError(f"{recording}: not found; run `dvc repro stages/study/dvc.yaml:record@{task}`")

    import shutil

    from ruamel.yaml import YAML

    from sigma.shared.files import atomic_directory

    package = str(Path(__file__).resolve().parents[4])
    # The stages find this package wherever it is run from, and are no stages of DVC.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    with atomic_directory(output) as folder:
        with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
            YAML(typ="safe").dump(values, stream)
        link = folder / "dataset"
        link.symlink_to(recording.resolve(), target_is_directory=True)
        for stage in STAGES:
            ended = subprocess.run([sys.executable, "-m", "sigma", stage], cwd=folder, env=environment, check=False)
            if ended.returncode:
                raise SigmaError(f"study: {task}: `sigma {stage}` ended with status {ended.returncode}")
        link.unlink()
        for rest in folder.iterdir():  # parameters of later stages, times, metrics
            if rest.name != "data":
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
    return f"study: {task}: windows and the frozen base's actions are in {output}"
