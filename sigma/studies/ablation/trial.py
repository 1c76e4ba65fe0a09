"""``sigma trial``: one arm at one learning rate, for its validation error alone."""

from pathlib import Path

from sigma.shared.errors import SigmaError
from sigma.studies.ablation.arms import arm_parameters, read_ablation, select_arm

BASE = Path("data/base.json")
SHARDS = Path("data/shards")
FEATURES = Path("data/features")
BASELINE = Path("data/predictions/baseline.parquet")


def run(*, params: Path, arm: str, rate: float, output: Path) -> str:
    """Train and write ``{"arm", "rate", "validation"}``; test windows are not looked at; returns one line.

    Raises :class:`SigmaError` for an arm without trials or a rate that is not in the list, before any long work.
    """
    ablation = read_ablation(params)
    select_arm(ablation, arm, params)
    if arm not in ablation.confirmatory:
        taken = ablation.arms[arm].rate_of
        raise SigmaError(f"{params}: ablation.arms.{arm}: has no trials of its own, it takes the rate of {taken}")
    if rate not in ablation.trials.rates:
        legal = ", ".join(f"{value:g}" for value in ablation.trials.rates)
        raise SigmaError(f"{params}: ablation.trials.rates: no rate {rate:g}; legal: {legal}")
    chosen = ablation.arms[arm]
    parameters = arm_parameters(params, arm, chosen, seed=ablation.trials.seed, rate=rate)

    from sigma.compute.device import open_device
    from sigma.shared.files import write_json
    from sigma.studies.ablation.arm_training import new_trainer
    from sigma.training.batches import load_batches
    from sigma.training.state import Scratch

    machine = parameters.machine
    material = load_batches(BASE, SHARDS, FEATURES, BASELINE, device=open_device(machine))
    trainer = new_trainer(chosen.kind, material, parameters)
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
        write_json(output, {"arm": arm, "rate": rate, "validation": result.validation})
        scratch.clear()
    return f"trial: {arm} at {rate:g} times the rates: validation mse_plan {result.validation:.5f}"
