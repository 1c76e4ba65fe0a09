"""``sigma confirm``: the trained arms on episodes that no choice has seen. Meant to run once for a released model."""

import tempfile
from pathlib import Path

from pydantic import Field

from sigma.parameters import read_parameters, read_sections
from sigma.parameters.schema import Section

BASE, SHARDS, FEATURES = Path("data/base.json"), Path("data/shards/meta.json"), Path("data/features/meta.json")
SUBJECT = "sigma"


class ConfirmationParameters(Section):
    """``confirmation`` in stages/confirmation/params.yaml; the first three are read by its dvc.yaml alone."""

    episodes: int = Field(ge=2, le=100_000)
    seed: int = Field(ge=0)
    workers: int = Field(ge=1, le=1024)
    arms: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)


class ConfirmationFile(Section):
    confirmation: ConfirmationParameters


def run(*, params: Path, dataset: Path, arms: Path, output: Path) -> str:
    """Score every arm and seed on the episodes of ``dataset``; writes ``output`` as ``sigma ablation`` writes a split.

    Raises :class:`SigmaError` where an arm is missing or of another base, before any long work.
    """
    section, parameters = read_sections(ConfirmationFile, params).confirmation, read_parameters()

    from sigma.shared.errors import SigmaError
    from sigma.shared.files import read_json, write_json
    from sigma.studies.arm_folder import read_arm_record

    kinds = {}
    for arm in section.arms:
        for seed in section.seeds:
            kind = kinds[arm, seed] = read_arm_record(arms / f"{arm}-{seed}", {})["kind"]
            if kind == "full":
                raise SigmaError(f"{params}: confirmation.arms: {arm}: kind {kind}; legal: residual and lora arms")
    if SUBJECT not in section.arms:
        raise SigmaError(f"{params}: confirmation.arms: found {section.arms}; legal: {SUBJECT} among them")
    shards_meta, features, reference = read_json(SHARDS), read_json(FEATURES), read_json(BASE)

    from sigma.compute.device import open_device
    from sigma.compute.workers import Workers
    from sigma.evaluation.scores import span_arm
    from sigma.studies.ablation.arm_table import Windows, add_variant, reference_rows, split_results
    from sigma.studies.confirmation import fresh_episodes

    machine = parameters.machine
    device = str(open_device(machine))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dataset.parent) as folder:
        shards = fresh_episodes.fresh_shards(dataset, Path(folder) / "shards", shards_meta, Workers.of(machine))
        material = fresh_episodes.fresh_material(
            shards, reference, features, parameters.base, batch=machine.batch, device=device
        )
        columns, scales = material.columns, {}
        windows = Windows.judged(columns, shards_meta, parameters.report)
        # The references that need no training windows.
        plans = {"frozen_base": columns["base_action"], "base_mean_of_samples": columns["base_samples"].mean(axis=1)}
        rows = reference_rows(plans, windows, shards_meta["chunk"])
        for (arm, seed), kind in kinds.items():
            place, fresh = arms / f"{arm}-{seed}", fresh_episodes.fresh_base(material)
            if kind == "residual":
                actions, scale = fresh_episodes.residual_actions(
                    fresh, place, parameters.adapter.model_dump(), name=arm, batch=machine.batch
                )
                variants, scales[f"{arm}-{seed}"] = {arm: actions}, float(scale.mean())
            else:
                variants = fresh_episodes.tuned_actions(fresh, place, name=arm, batch=machine.batch)
            for name, actions in variants.items():
                add_variant(rows, name, seed, windows.errors(span_arm(actions)))
    result = split_results(rows, SUBJECT, windows, "test")
    write_json(output, {"dataset": {"episodes": section.episodes, "seed": section.seed}, "scales": scales, **result})
    plan = result["rows"][SUBJECT]["mse_plan"]
    return (
        f"confirm: {result['windows']} windows of {result['episodes']} fresh episodes; "
        f"Sigma mse_plan {plan['mean']:.4f} ({plan['lo']:.4f} to {plan['hi']:.4f})"
    )
