"""``sigma evaluate``: Sigma and the control on the same windows, and the adapter's calibration."""

from pathlib import Path

from sigma.parameters import Parameters

BASE = Path("data/base.json")
SHARDS = Path("data/shards")
FEATURES = Path("data/features")
BASELINE = Path("data/predictions/baseline.parquet")
MODEL = Path("models/sigma")
PREDICTIONS = Path("data/predictions/sigma.parquet")
HEADS = Path("data/predictions/heads.json")
CALIBRATION = Path("models/adapter_calibration.json")


def run(parameters: Parameters) -> str:
    """Write residuals, factors, alignment and distances of every window; returns one line that says how many."""
    from sigma.compute.device import open_device
    from sigma.compute.processes import launch, rank, to_start
    from sigma.evaluation.replay.sigma_replay import replay_sigma
    from sigma.policy.adapter.calibration import write_calibration
    from sigma.shared.files import Outputs
    from sigma.shared.tables import to_table
    from sigma.training.batches import load_batches

    machine = parameters.machine
    device = open_device(machine)
    if to_start(machine.processes):
        return launch(run, parameters, device)
    batches = load_batches(BASE, SHARDS, FEATURES, BASELINE, device=device)
    result = replay_sigma(batches, MODEL, batch=machine.batch, base_instructions=parameters.base.instructions)
    if rank():
        return ""  # the first process writes
    frames, terms = result.calibration.record["windows"], result.calibration.record["terms"]
    # Two words on a dataset with one instruction, which leaves none to compare with, are no lack.
    silent = [term for term, entry in terms.items() if not entry["ordinary"] and term not in ("meaning", "wording")]
    with Outputs() as outputs:
        outputs.table(PREDICTIONS, to_table(result.columns))
        outputs.json(HEADS, result.heads)
        write_calibration(CALIBRATION, result.calibration, MODEL)
    return f"evaluate: {len(result.columns['window'])} windows, calibrated on {frames} frames of validation" + (
        f"; the gate does not judge {', '.join(silent)}, which no decision of them has" if silent else ""
    )
