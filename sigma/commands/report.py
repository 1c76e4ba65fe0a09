"""``sigma report``: blend, score, check and draw what the model stages predicted. Needs no model, and seconds."""

from pathlib import Path

from pydantic import Field, model_validator

from sigma.parameters import Section


class WeightParameters(Section):
    size: float = Field(ge=0)
    motion: float = Field(ge=0)
    misalignment: float = Field(ge=0)
    tau: float = Field(ge=0)
    feature: float = Field(ge=0)
    text: float = Field(ge=0)


class AdapterParameters(Section):
    min_scale: float = Field(ge=0, le=1)
    max_scale: float = Field(ge=0, le=1)
    risk_temperature: float = Field(gt=0)
    threshold: float
    text_tolerance: float = Field(gt=0, le=2)
    weights: WeightParameters

    @model_validator(mode="after")
    def _ordered(self) -> "AdapterParameters":
        if self.max_scale < self.min_scale:
            raise ValueError(f"max_scale must not lie below min_scale ({self.min_scale})")
        return self


class ReportParameters(Section):
    tolerance: float = Field(ge=0, le=1)
    resamples: int = Field(ge=100, le=1_000_000)
    seed: int = Field(ge=0)
    batch: int = Field(ge=1, le=4096)
    worst_windows: int = Field(ge=0, le=100)
    gripper: str = Field(min_length=1)
    critical_threshold: float = Field(ge=0, le=2)


SECTIONS: dict[str, type[Section]] = {"adapter": AdapterParameters, "report": ReportParameters}

PREDICTIONS = Path("data/predictions")
SHARDS, FEATURES, BASE = Path("data/shards/meta.json"), Path("data/features/meta.json"), Path("data/base.json")
CALIBRATION = Path("models/adapter_calibration.json")
# Counts, chosen episodes, findings, and what is drawn of the worst of them.
AUDIT = (
    Path("metrics/audit.json"),
    Path("data/episodes.json"),
    *(Path(f"data/audit{part}.parquet") for part in ("", "_traces", "_frames")),
)
METRICS, REPORTS = Path("metrics"), Path("reports")
PLOTTED = ("base", "sigma", "base_mean_of_samples", "hold_state", "mean_trajectory")


def run(parameters: dict[str, Section]) -> str:
    """Write the metrics of base and Sigma, both checks, the evaluation report and ``reports/``; returns the verdict."""
    from sigma import records
    from sigma.errors import SigmaError
    from sigma.evaluation.checks import check_a, check_b
    from sigma.evaluation.predictions import read_predictions
    from sigma.evaluation.summary import evaluate, split_metrics, summarise
    from sigma.io import Outputs
    from sigma.policy.adapter import SigmaTelepathyAdapter, read_calibration
    from sigma.report.audit_section import audit_section, read_audit
    from sigma.report.page import build_page
    from sigma.report.provenance import provenance
    from sigma.report.table import write_csv
    from sigma.report.verdict import verdict

    adapter, report = parameters["adapter"], parameters["report"]
    assert isinstance(adapter, AdapterParameters) and isinstance(report, ReportParameters)
    tables = (PREDICTIONS / f"{name}.parquet" for name in ("baseline", "sigma", "frames"))
    predictions = read_predictions(*tables, SHARDS, FEATURES)
    if report.gripper not in predictions.joints:
        raise SigmaError(
            f"params.yaml: report.gripper: found {report.gripper!r}; legal: one of {', '.join(predictions.joints)}"
        )
    audit = read_audit(*AUDIT)
    heads = records.read_record(PREDICTIONS / "heads.json", records.HEADS)
    base = records.read_record(BASE, records.ORIGIN)
    evaluation = evaluate(
        predictions,
        SigmaTelepathyAdapter(**adapter.model_dump(), calibration=read_calibration(CALIBRATION)),
        resamples=report.resamples,
        seed=report.seed,
        gripper=predictions.joints.index(report.gripper),
        critical_threshold=report.critical_threshold,
    )
    first = check_a(heads, predictions.sigma, evaluation.test, report.tolerance)
    second = check_b(evaluation.control, evaluation.differences, len(evaluation.test), report.batch)
    summary = {**summarise(evaluation, report.worst_windows), "data": audit.summary()}
    sentence = verdict(first, second, evaluation.control, evaluation.differences)
    sentence = " ".join(filter(None, [sentence, audit.left_out]))
    record = provenance(predictions.shards["dataset"], base, predictions.features, heads, report.seed)
    page = build_page(
        evaluation,
        summary,
        sentence=sentence,
        check_a=first,
        check_b=second,
        provenance=record,
        data=audit_section(audit),
        thresholds={"adapter": adapter.model_dump(), "report": report.model_dump()},
    )
    steps, joints = summary["by_step"], summary["by_joint"]
    with Outputs() as outputs:
        for name, value in {
            "baseline": split_metrics(evaluation, "base", report.batch),
            "sigma": split_metrics(evaluation, "sigma", report.batch),
            "check_a": first,
            "check_b": second,
            "sigma_eval_report": {"verdict": sentence, **summary},
            "provenance": record,
        }.items():
            outputs.json(METRICS / f"{name}.json", value)
        folder = outputs.folder(REPORTS)
        (folder / "index.html").write_text(page, encoding="utf-8")
        by_step = zip(*(steps[name] for name in PLOTTED), strict=True)
        write_csv(
            folder / "error_by_step.csv",
            ("step", *PLOTTED),
            [(step, *values) for step, values in enumerate(by_step, start=1)],
        )
        by_joint = zip(joints["joints"], *(joints[name]["rmse_joint_units"] for name in PLOTTED), strict=True)
        write_csv(folder / "error_by_joint.csv", ("joint", *PLOTTED), list(by_joint))
    return f"report: {sentence}"
