"""``sigma finetune``: train LoRA and the telepathy heads on the train windows, select on validation."""

from pathlib import Path

from sigma.parameters import Parameters

BASE = Path("data/base.json")
SHARDS = Path("data/shards")
FEATURES = Path("data/features")
START = Path("data/start")
BASELINE = Path("data/predictions/baseline.parquet")
MODEL = Path("models/sigma")
CURVES = Path("data/training")


def run(parameters: Parameters) -> str:
    """Train, select, and move the finished model into place; returns one line with the selected step."""
    from sigma.compute.device import open_device
    from sigma.compute.processes import launch, rank, to_start
    from sigma.policy.model.start import read_start
    from sigma.shared.files import Outputs
    from sigma.shared.logs import record_training
    from sigma.training.batches import load_batches
    from sigma.training.output import check_repository, write_curve, write_model
    from sigma.training.state import Scratch
    from sigma.training.trainer import Trainer

    machine = parameters.machine
    device = open_device(machine)
    if to_start(machine.processes):
        return launch(run, parameters, device)
    check_repository()
    batches = load_batches(BASE, SHARDS, FEATURES, BASELINE, device=device)
    start, record = read_start(START)
    trainer = Trainer(batches, parameters, start)
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
        if rank():
            return ""  # the first process writes
        record_training("finetune", {"flow": result.speed})
        with Outputs() as outputs:
            write_curve(result, outputs.folder(CURVES))
            write_model(result, MODEL, record)
        scratch.clear()
    return (
        f"finetune: {result.trainable:,} trained parameters, {result.steps} steps, "
        f"validation flow loss {result.validation:.5f} at step {result.selected}"
    )
