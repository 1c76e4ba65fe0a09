"""``sigma ablation``: every arm's held-out errors, with intervals over episodes. Needs no model and no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, model_validator

from sigma.parameters import read_parameters, read_sections
from sigma.parameters.schema import Section

if TYPE_CHECKING:
    from sigma.studies.ablation.arm_results import ArmSeed
    from sigma.studies.ablation.arm_table import Row, Windows

BASELINE = Path("data/predictions/baseline.parquet")
SHARDS, FEATURES = Path("data/shards/meta.json"), Path("data/features")


class ArmList(Section):
    """What the summary needs of the section that the arms are trained from: their names, or a mapping by name."""

    model_config = ConfigDict(extra="ignore")

    arms: list[str] | dict[str, Any] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> "ArmList":
        for name, values in (("arms", list(self.arms)), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} names one twice")
        return self


class SummaryParameters(Section):
    subject: str


class SummaryFile(Section):
    ablation: ArmList
    summary: SummaryParameters


def _result(rows: dict[str, "Row"], arms: list["ArmSeed"], subject: str, windows: "Windows") -> dict[str, Any]:
    import numpy as np

    from sigma.studies.ablation.arm_table import SPLITS, constant_cost, fall_over_last_part, split_results

    result: dict[str, Any] = {split: split_results(rows, subject, windows, split) for split in SPLITS}
    costs = {split: constant_cost(rows, windows, split) for split in SPLITS}
    result["tau_constant_cost"] = {split: cost for split, cost in costs.items() if cost is not None}
    result["arms"] = {}
    for name in dict.fromkeys(arm.arm for arm in arms):
        trainings = [arm for arm in arms if arm.arm == name]
        falls = {str(arm.seed): fall_over_last_part(arm.curves) for arm in trainings}
        result["arms"][name] = {
            "trained_parameters": trainings[0].record["trained_parameters"],
            "steps": trainings[0].record["steps"],
            "selected_step": {str(arm.seed): arm.record["selected_step"] for arm in trainings},
            "fall_over_last_fifth": {"mean": float(np.mean(list(falls.values()))), "seeds": falls},
        }
    return result


def _write_tables(folder: Path, result: dict[str, Any], arms: list["ArmSeed"]) -> None:
    """Table, forest plot and curves, for DVC's plots and the evidence page."""
    from sigma.report.table import write_csv
    from sigma.studies.ablation.arm_figures import curves, forest
    from sigma.studies.ablation.arm_table import METRICS

    (folder / "forest.svg").write_text(forest(result["test"]), encoding="utf-8")
    (folder / "curves.svg").write_text(curves([(arm.arm, arm.seed, arm.curves) for arm in arms]), encoding="utf-8")
    header = ("split", "row", "metric", "mean", "lo", "hi", "delta", "delta_lo", "delta_hi", "p", "p_holm")
    lines = [
        (split, name, metric, *(row[metric].get(key, "") for key in header[3:]))
        for split in ("test", "validation")
        for name, row in result[split]["rows"].items()
        for metric in METRICS
        if metric in row
    ]
    write_csv(folder / "rows.csv", header, lines)


def run(*, params: Path, arms: Path, output: Path, tables: Path) -> str:
    """Score every listed arm and reference; writes the metrics file ``output`` and the folder ``tables``.

    Raises :class:`SigmaError` before any scoring where an arm is missing, not listed, or of other windows.
    """
    file = read_sections(SummaryFile, params, others=True)
    listed, summary, report = file.ablation, file.summary, read_parameters().report

    from sigma.evaluation.predictions import BASELINE_COLUMNS
    from sigma.report.html import number
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import atomic_directory, read_json, write_json
    from sigma.shared.tables import read_columns
    from sigma.studies.ablation.arm_results import read_arm, refuse_unlisted, source_digests, title
    from sigma.studies.ablation.arm_table import Windows, add_arm, references

    names = list(listed.arms)
    refuse_unlisted(arms, names, listed.seeds)
    shards = read_json(SHARDS)
    base, _ = read_columns(BASELINE, BASELINE_COLUMNS)
    held_out = {name: values[base["split"] != "train"] for name, values in base.items() if name != "base_samples"}
    windows = Windows.judged(held_out, shards, report)
    digests = source_digests(SHARDS, FEATURES)
    options = {"digests": digests, "held_out": windows.columns, "chunk": shards["chunk"]}
    read = [read_arm(arms / f"{arm}-{seed}", arm, seed, **options) for arm in names for seed in listed.seeds]
    rows = {row.name: row for row in references(base, windows, shards["chunk"])}
    for arm in read:
        add_arm(rows, arm, windows)
    trained = [name for name, row in rows.items() if row.reference is None]
    if summary.subject not in trained:
        raise SigmaError(
            f"{params}: summary.subject: found {summary.subject!r}; legal: a row of a listed arm, {', '.join(trained)}"
        )
    for name in trained:
        if sorted(rows[name].seeds) != sorted(listed.seeds):
            raise SigmaError(f"{arms}: row {name!r} is missing from some seeds; train its arm again")
    result = _result(rows, read, summary.subject, windows)
    with atomic_directory(tables) as folder:
        _write_tables(folder, result, read)
    write_json(output, result)
    test = result["test"]
    return (
        f"ablation: {len(rows)} rows on {test['windows']} windows of {test['episodes']} test episodes; "
        f"{title(summary.subject)} mse_plan {number(test['rows'][summary.subject]['mse_plan']['mean'])}"
    )
