"""``sigma arm``: train one arm of the ablation at one seed, and predict the validation and test windows with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.parameters import Parameters
from sigma.studies.ablation.arms import arm_parameters, check_seed, read_ablation, read_rate, select_arm
from sigma.studies.arm_folder import CALIBRATION, CURVES, MODEL, PREDICTIONS, RECORD

if TYPE_CHECKING:
    from sigma.studies.ablation.arm_replay import ArmReplay
    from sigma.training.batches import WindowBatches


def run(*, params: Path, arm: str, seed: int, output: Path, rates: Path) -> str:
    """Write the folder ``output`` whole, as :mod:`sigma.studies.arm_folder` has it; returns one line with the selected
    step.

    What is evaluated is the saved model on a fresh base, so that the folder is known to load. Raises
    :class:`SigmaError` for an arm or a seed that is not listed, before any long work.
    """
    ablation = read_ablation(params)
    chosen = select_arm(ablation, arm, params)
    check_seed(ablation, seed, params)
    rate = read_rate(rates, chosen)
    parameters = arm_parameters(params, arm, chosen, seed=seed, rate=rate)

    from sigma.policy.adapter.calibration import write_calibration
    from sigma.shared.files import atomic_directory, digest_file, digest_folder, write_json, write_table
    from sigma.shared.logs import record_training
    from sigma.shared.tables import to_table
    from sigma.studies.ablation.arm_training import (
        FEATURES,
        SHARDS,
        curve_columns,
        load_arm_batches,
        trained_arm,
        write_arm_model,
    )

    with trained_arm(chosen.kind, parameters) as result, atomic_directory(output) as temporary:
        write_arm_model(result, temporary / MODEL)
        fresh = load_arm_batches(parameters)
        replay = _replay(chosen.kind, fresh, temporary / MODEL, arm, parameters)
        if replay.calibration is not None:
            write_calibration(temporary / CALIBRATION, replay.calibration)
        write_table(temporary / PREDICTIONS, to_table(_columns(fresh, replay)))
        write_table(temporary / CURVES, to_table(curve_columns(result.curve)))
        record_training(f"arm-{arm}-{seed}", {"flow": result.speed})
        record = {
            "arm": arm,
            "seed": seed,
            "kind": chosen.kind,
            "rate": rate,
            "validation": result.validation,
            "selected_step": result.selected,
            "steps": result.steps,
            "trained_parameters": result.trainable,
            "shards_digest": digest_file(SHARDS / "meta.json"),
            "features_digest": digest_folder(FEATURES),
            "variants": list(replay.variants),
        }
        write_json(temporary / RECORD, record)
    return (
        f"arm: {arm}, seed {seed}: {result.trainable:,} trained parameters, {result.steps} steps, "
        f"validation flow loss {result.validation:.5f} at step {result.selected}"
    )


def _replay(kind: str, batches: "WindowBatches", folder: Path, arm: str, parameters: Parameters) -> "ArmReplay":
    """Load the saved model on the untouched base of ``batches`` and let it decide."""
    from dataclasses import replace

    from sigma.policy.model import lora
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.description import describe_base
    from sigma.policy.pi05.inputs import InputBuilder
    from sigma.studies.ablation.arm_replay import replay_flow_arm, replay_sigma_arm
    from sigma.training.flow import FlowModel

    batch = parameters.machine.batch
    if kind == "sigma":
        settings, others = parameters.adapter.model_dump(), parameters.base.instructions
        return replay_sigma_arm(batches, folder, arm, settings, others, batch=batch)
    if kind == "lora":
        return replay_flow_arm(batches, FlowModel(lora.load(batches.base.policy, folder)), arm, batch=batch)
    base = load_base(describe_base(str(folder), None), device=str(batches.builder.device), dtype=batches.dtype)
    batches = replace(batches, base=base, builder=InputBuilder(base, batches.builder.normalisation))
    return replay_flow_arm(batches, FlowModel(base.policy), arm, batch=batch)


def _columns(batches: "WindowBatches", replay: "ArmReplay") -> dict[str, Any]:
    import numpy as np

    from sigma.studies.ablation.arm_replay import scored_windows

    windows, shards = scored_windows(batches), batches.shards
    columns: dict[str, Any] = {name: batches.columns[name][windows] for name in ("window", "episode", "step", "split")}
    columns["task"] = np.array([shards.tasks[task] for task in shards.window_task[windows]], dtype=str)
    for variant, actions in replay.variants.items():
        columns |= {f"{variant}.{span}": action.astype(np.float32) for span, action in actions.items()}
    return columns
