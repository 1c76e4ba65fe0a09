"""``sigma report``: blend, score, check and draw what the model stages predicted. Needs no model and takes seconds."""

from pathlib import Path

from sigma.parameters import Parameters

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


def run(parameters: Parameters) -> str:
    """Write the metrics of base and Sigma, both checks, the evaluation report and ``reports/``; returns the verdict."""
    from sigma.evaluation.checks import check_a, check_b
    from sigma.evaluation.predictions import read_predictions
    from sigma.evaluation.summary import evaluate, split_metrics, summarise
    from sigma.policy.adapter.adapter import SigmaTelepathyAdapter, read_calibration
    from sigma.report.audit_section import audit_section, read_audit
    from sigma.report.page import build_page
    from sigma.report.provenance import provenance
    from sigma.report.table import write_csv
    from sigma.report.verdict import verdict
    from sigma.shared import records
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import Outputs

    adapter, report = parameters.adapter, parameters.report
    baseline, sigma, frames = (PREDICTIONS / f"{name}.parquet" for name in ("baseline", "sigma", "frames"))
    predictions = read_predictions(baseline, sigma, frames, SHARDS, FEATURES)
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
