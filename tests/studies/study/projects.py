"""The study on the small world: its parameters, and the world in place of a task's folder."""

from pathlib import Path
from typing import Any

from sigma.parameters.schema import read_yaml
from sigma.shared.files import write_json
from sigma.studies.study.cells import cells, rates
from sigma.studies.study.cells.parameters import PARAMS, read_study
from sigma.studies.study.cells.workspace import CELLS, RATES, TRIALS, Workspace, model_folder
from sigma.studies.study.train import train
from tests.worlds import ROOT, World, inside, merge

TASK = "pick_place"
PLAY = {"first_seed": 40, "episodes": 3, "setting_episodes": 2, "base_episodes": 2, "n_action_steps": 4, "batch": 2}


def write_study(
    world: World, *, replaced: dict[str, Any] | None = None, only: list[str] | None = None, **changes: Any
) -> Path:
    """The shipped section ``study`` with ``changes``, in a project whose data of pick_place are the world's own.

    Its overrides would not be legal for so small a world and are left out; ``replaced`` takes the place of what the
    section ``play`` has; of the tasks all but those in ``only`` are left out.
    """
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    yaml.representer.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
    file = world.root / PARAMS
    file.parent.mkdir(parents=True, exist_ok=True)
    study = merge(read_yaml(ROOT / PARAMS)["study"], changes)
    study["play"] |= replaced or {}
    study["tasks"] = {name: task for name, task in study["tasks"].items() if only is None or name in only}
    for task in study["tasks"].values():
        task["overrides"] = {}
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump({"study": study}, stream)
    data = world.root / Workspace.of(TASK).root
    data.parent.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        data.symlink_to(world.root.resolve())
    return file


def settle(world: World, **changes: Any) -> None:
    """The cells, and trials of which every arm's rate of 2 is the best."""
    world.configure()
    study = read_study(write_study(world, **changes))
    with inside(world.root):
        cells.run(params=PARAMS, output=CELLS)
    for arm in study.trials.arms:
        for rate in study.trials.rates:
            write_json(world.root / TRIALS / TASK / f"{arm}-{rate:g}.json", {"validation": abs(rate - 2)})
    with inside(world.root):
        rates.run(params=PARAMS, output=RATES)


def train_arm(world: World, arm: str, seed: int = 1, **changes: Any) -> Path:
    """Train an arm as the command line does; returns its folder."""
    settle(world, **changes)
    output = model_folder(TASK, arm, seed)
    with inside(world.root):
        train.run(task=TASK, arm=arm, seed=seed, params=PARAMS, output=output)
    return world.root / output
