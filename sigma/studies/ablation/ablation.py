"""``sigma ablation``: every arm's held-out errors, with intervals over episodes. Needs no model and no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.parameters import read_parameters
from sigma.studies.ablation.arms import read_ablation

if TYPE_CHECKING:
    from sigma.studies.ablation.arm_results import ArmSeed
    from sigma.studies.ablation.arm_table import Row, Windows

BASELINE = Path("data/predictions/baseline.parquet")
SHARDS, FEATURES = Path("data/shards/meta.json"), Path("data/features")


def _result(rows: dict[str, "Row"], arms: list["ArmSeed"], windows: "Windows") -> dict[str, Any]:
    import numpy as np

    from sigma.studies.ablation.arm_table import SPLITS, fall_over_last_part, split_results

    result: dict[str, Any] = {split: split_results(rows, windows, split) for split in SPLITS}
    result["arms"] = {}
    for name in dict.fromkeys(arm.record["arm"] for arm in arms):
        trainings = {str(arm.record["seed"]): arm for arm in arms if arm.record["arm"] == name}
        falls = {seed: fall_over_last_part(arm.curves) for seed, arm in trainings.items()}
        record = next(iter(trainings.values())).record
        result["arms"][name] = {
            "trained_parameters": record["trained_parameters"],
            "steps": record["steps"],
            "selected_step": {seed: arm.record["selected_step"] for seed, arm in trainings.items()},
            "fall_over_last_fifth": {"mean": float(np.mean(list(falls.values()))), "seeds": falls},
        }
    return result


def _write_tables(folder: Path, result: dict[str, Any], arms: list["ArmSeed"]) -> None:
    """Table, forest plot and curves."""
    from sigma.report.table import write_csv
    from sigma.studies.ablation.arm_figures import curves, forest
    from sigma.studies.ablation.arm_table import METRICS, SPLITS

    (folder / "forest.svg").write_text(forest(result["test"]), encoding="utf-8")
    (folder / "curves.svg").write_text(curves([(arm.record["arm"], arm.curves) for arm in arms]), encoding="utf-8")
    header = ("split", "row", "metric", "mean", "lo", "hi", "delta", "delta_lo", "delta_hi", "p", "p_holm")
    lines = [
        (split, name, metric, *(row[metric].get(key, "") for key in header[3:]))
        for split in SPLITS
        for name, row in result[split]["rows"].items()
        for metric in METRICS
        if metric in row
    ]
    write_csv(folder / "rows.csv", header, lines)


def run(*, params: Path, arms: Path, output: Path, tables: Path) -> str:
    """Score every listed arm and reference; writes the metrics file ``output`` and the folder ``tables``.

    Raises :class:`SigmaError` before any scoring where an arm is missing, not listed, or of other windows.
    """
    listed, report = read_ablation(params), read_parameters().report

    from sigma.evaluation.predictions import BASELINE_COLUMNS
    from sigma.evaluation.references import reference_plans
    from sigma.report.html import number
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import atomic_directory, digest_file, digest_folder, read_json, write_json
    from sigma.shared.tables import read_columns
    from sigma.studies.ablation.arm_results import SUBJECT, read_arm, refuse_unlisted, title
    from sigma.studies.ablation.arm_table import REFERENCES, Windows, add_variant, reference_rows

    refuse_unlisted(arms, listed.arms, listed.seeds)
    shards = read_json(SHARDS)
    base, _ = read_columns(BASELINE, BASELINE_COLUMNS)
    held_out = base["split"] != "train"
    windows = Windows.judged({name: base[name][held_out] for name in base if name != "base_samples"}, shards, report)
    options = {
        "digests": {"shards_digest": digest_file(SHARDS), "features_digest": digest_folder(FEATURES)},
        "held_out": windows.columns,
        "chunk": shards["chunk"],
    }
    trainings = [read_arm(arms, arm, seed, **options) for arm in listed.arms for seed in listed.seeds]
    # The mean trajectory reads the train windows, so that plans are made before the held-out ones are taken.
    plans = {"frozen_base": base["base_action"], **reference_plans(base)}
    rows = reference_rows({name: plans[name][held_out] for name in REFERENCES}, windows, shards["chunk"])
    for training in trainings:
        for name, actions in training.variants.items():
            add_variant(rows, name, training.record["seed"], windows.errors(actions))
    trained = [name for name, row in rows.items() if row.reference is None]
    if SUBJECT not in trained:
        raise SigmaError(f"{params}: ablation.arms: {SUBJECT} is missing, with which every row is compared")
    for name in trained:
        if rows[name].seeds.keys() != set(listed.seeds):
            raise SigmaError(f"{arms}: row {name!r} is missing from some seeds; train its arm again")
    result = _result(rows, trainings, windows)
    with atomic_directory(tables) as folder:
        _write_tables(folder, result, trainings)
    write_json(output, result)
    test = result["test"]
    return (
        f"ablation: {len(rows)} rows on {test['windows']} windows of {test['episodes']} test episodes; "
        f"{title(SUBJECT)} mse_plan {number(test['rows'][SUBJECT]['mse_plan']['mean'])}"
    )
