"""``sigma confirm``: the trained arms on episodes that no choice has seen. Meant to run once for a released model."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sigma.parameters import read_parameters, read_sections
from sigma.parameters.schema import Section

if TYPE_CHECKING:
    from sigma.studies.ablation.arm_table import Row, Windows

BASE, SHARDS, FEATURES = Path("data/base.json"), Path("data/shards/meta.json"), Path("data/features/meta.json")
CALIBRATION = "adapter_calibration.json"
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
    section = read_sections(ConfirmationFile, params).confirmation

    root = read_parameters()
    report, machine, base_parameters, settings = root.report, root.machine, root.base, root.adapter

    from sigma.shared.errors import SigmaError
    from sigma.shared.files import read_json, write_json

    records = {}
    for arm in section.arms:
        for seed in section.seeds:
            records[arm, seed] = read_json(arms / f"{arm}-{seed}" / "arm.json")
            kind = records[arm, seed]["kind"]
            if kind not in ("residual", "lora"):
                raise SigmaError(f"{params}: confirmation.arms: {arm}: kind {kind}; legal: residual and lora arms")
    if SUBJECT not in section.arms:
        raise SigmaError(f"{params}: confirmation.arms: found {section.arms}; legal: {SUBJECT} among them")
    shards_meta, features, reference = read_json(SHARDS), read_json(FEATURES), read_json(BASE)

    from sigma.compute.device import open_device
    from sigma.compute.workers import Workers
    from sigma.evaluation.scores import span_arm
    from sigma.studies.ablation.arm_table import Windows
    from sigma.studies.confirmation import fresh_episodes as confirmation

    device = str(open_device(machine))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dataset.parent) as folder:
        shards = confirmation.fresh_shards(dataset, Path(folder) / "shards", shards_meta, Workers.of(machine))
        material = confirmation.fresh_material(
            shards, reference, features, base_parameters, batch=machine.batch, device=device
        )
        windows = Windows.judged(material.columns, shards_meta, report)
        rows, scales = _rows(material.columns, windows, shards_meta["chunk"]), {}
        for (arm, seed), record in records.items():
            place, own = arms / f"{arm}-{seed}", confirmation.fresh_base(material)
            if record["kind"] == "residual":
                actions, scale = confirmation.residual_actions(
                    own, place / "model", place / CALIBRATION, settings.model_dump(), name=arm, batch=machine.batch
                )
                variants, scales[f"{arm}-{seed}"] = {arm: actions}, float(scale.mean())
            else:
                variants = confirmation.tuned_actions(own, place / "model", name=arm, batch=machine.batch)
            for name, actions in variants.items():
                _add(rows, name, seed, windows.errors(span_arm(actions)))
    from sigma.studies.ablation.arm_table import split_results

    result = split_results(rows, SUBJECT, windows, "test")
    write_json(output, {"dataset": {"episodes": section.episodes, "seed": section.seed}, "scales": scales, **result})
    own = result["rows"][SUBJECT]["mse_plan"]
    return (
        f"confirm: {result['windows']} windows of {result['episodes']} fresh episodes; "
        f"Sigma mse_plan {own['mean']:.4f} ({own['lo']:.4f} to {own['hi']:.4f})"
    )


def _rows(columns: dict[str, Any], windows: "Windows", chunk: int) -> dict[str, "Row"]:
    """The references that need no training windows."""
    from sigma.evaluation.scores import plan_arm
    from sigma.studies.ablation.arm_table import Row

    plans = {"frozen_base": columns["base_action"], "base_mean_of_samples": columns["base_samples"].mean(axis=1)}
    return {name: Row(name, {}, windows.errors(plan_arm(plan, chunk))) for name, plan in plans.items()}


def _add(rows: dict[str, "Row"], name: str, seed: int, errors: dict[str, Any]) -> None:
    from sigma.studies.ablation.arm_table import Row

    rows.setdefault(name, Row(name, {})).seeds[seed] = errors
