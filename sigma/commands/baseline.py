"""``sigma baseline``: the frozen π0.5 on every window, computed once for training and evaluation."""

from pathlib import Path

from sigma.parameters import Parameters

BASE = Path("data/base.json")
SHARDS = Path("data/shards")
PREDICTIONS = Path("data/predictions/baseline.parquet")
FRAMES = Path("data/predictions/frames.parquet")
FEATURES = Path("data/features")


def run(parameters: Parameters) -> str:
    """Write the base's actions, samples and pooled features; returns one line that says how many."""
    from sigma.compute.device import open_device
    from sigma.compute.processes import launch, rank, split_layers, to_start
    from sigma.data.shards import Shards
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.base_replay import frame_pictures, replay_base, select_normalisation
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import Outputs, digest_file, write_json
    from sigma.shared.quantiles import check_still_joints
    from sigma.shared.records import BASE as BASE_RECORD
    from sigma.shared.records import read_record
    from sigma.shared.tables import to_table

    base_parameters, machine = parameters.base, parameters.machine
    device = open_device(machine)
    if to_start(machine.processes):
        return launch(run, parameters, device)
    reference = read_record(BASE, BASE_RECORD)
    shards = Shards.open(SHARDS)
    if not {"train", "validation", "test"} <= set(shards.window_split):
        raise SigmaError(
            f"{SHARDS}: no episode is held out, so nothing can be trained; hold some out by params.yaml: "
            "window.validation, window.test"
        )
    if base_parameters.statistics == "checkpoint" and reference["statistics"] is not None:
        # The window stage has asked too, but not where base.statistics alone was changed since.
        meta = shards.meta
        check_still_joints(reference, meta["joint_names"], meta["exclude_joints"], meta["statistics"])
    base = load_base(reference, device=str(device), dtype=base_parameters.dtype, split=split_layers)
    normalisation = select_normalisation(base_parameters.statistics, base, shards)
    result = replay_base(base, shards, normalisation, base_parameters, batch=machine.batch)
    if rank():
        return ""  # the first process writes

    with Outputs() as outputs:
        from safetensors.torch import save_file

        outputs.table(PREDICTIONS, to_table(result.columns))
        outputs.table(FRAMES, frame_pictures(shards))
        folder = outputs.folder(FEATURES)
        save_file(
            {"pooled": result.pooled, "views": result.views, "text": result.text}, folder / "features.safetensors"
        )
        frames, pools, width = result.pooled.shape
        meta = {"base_digest": reference["digest"], "shards_digest": digest_file(SHARDS / "meta.json")}
        meta |= {"normalisation": normalisation.to_json()}
        meta |= base_parameters.model_dump(include={"statistics", "action", "samples", "seed", "dtype"})
        meta |= {"num_steps": base.num_steps, "token_rms": result.token_rms}
        write_json(folder / "meta.json", meta | {"frames": frames, "pools": pools, "width": width})
    return (
        f"baseline: {len(result.columns['window'])} windows, {base_parameters.samples} samples each, "
        f"{len(result.pooled)} frames of features"
    )
