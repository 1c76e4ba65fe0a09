"""``sigma study cells``: how every arm is trained on every task, a file each."""

from pathlib import Path

from sigma.shared.files import atomic_directory
from sigma.studies.study.cells.parameters import arm_values, read_study

SECTIONS = ("lora", "loss", "telepathy", "train")


def run(*, params: Path, output: Path) -> str:
    """Write ``TASK/ARM.yaml`` for every cell, with the sections that its training depends on.

    So a cell is trained again where its own parameters change, and a value that is not legal is refused before any long
    work.
    """
    from ruamel.yaml import YAML

    study = read_study(params)
    with atomic_directory(output) as folder:
        for task, arm in study.cells():
            values = arm_values(study, task, arm, params)
            file = folder / task / f"{arm}.yaml"
            file.parent.mkdir(exist_ok=True)
            with file.open("w", encoding="utf-8") as stream:
                YAML(typ="safe").dump({name: values[name] for name in SECTIONS}, stream)
    return f"study: {len(study.cells())} cells, each at the seeds {', '.join(map(str, study.seeds))}"
