"""Arms of the ablation on the small world: the shipped list, as shipped."""

from pathlib import Path
from typing import Any

from sigma.parameters.schema import read_yaml
from sigma.shared.files import write_json
from sigma.studies.ablation import arm
from sigma.studies.ablation.arms import PARAMS
from tests.worlds import ROOT, World, inside, merge

RATES = dict.fromkeys(("sigma", "plain_lora", "told_motion"), 1.0)


def write_ablation(world: World, **changes: Any) -> Path:
    """The shipped ``ablation`` section with ``changes``, beside the world's ``params.yaml``."""
    from ruamel.yaml import YAML

    shipped = read_yaml(ROOT / PARAMS)["ablation"]
    file = world.root / PARAMS
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as stream:
        YAML(typ="safe").dump({"ablation": merge(shipped, changes)}, stream)
    write_json(file.parent / "out/rates.json", RATES)
    return file


def run_arm(world: World, name: str, seed: int = 1, **changes: Any) -> Path:
    """Train an arm as the command line does; returns its folder."""
    world.configure()
    write_ablation(world, **changes)
    output = Path("stages/ablation/out") / f"{name}-{seed}"
    with inside(world.root):
        arm.run(params=PARAMS, arm=name, seed=seed, output=output, rates=Path("stages/ablation/out/rates.json"))
    return world.root / output
