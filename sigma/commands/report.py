"""``sigma report``: blend, score, check and draw what the model stages predicted. Needs no model and takes seconds."""

from pathlib import Path

from sigma.parameters import Parameters

DATA, METRICS, REPORTS = Path("data"), Path("metrics"), Path("reports")
CALIBRATION = Path("models/adapter_calibration.json")
PLOTTED = ("base", "sigma", "base_mean_of_samples", "hold_state", "mean_trajectory")


def run(parameters: Parameters) -> str:
    """Write the metrics of base and Sigma, both checks, the evaluation report and ``reports/``; returns the verdict."""
    from sigma.evaluation.checks import check_a, check_b
    from sigma.evaluation.predictions import read_predictions
    from sigma.evaluation.summary import evaluate, split_metrics, summarise
    from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
    from sigma.policy.adapter.calibration import read_calibration
    from sigma.report.audit_section import read_audit
    from sigma.report.page import build_page, verdict
    from sigma.report.provenance import provenance
    from sigma.report.table import write_csv
    from sigma.shared.files import Outputs
    from sigma.shared.records import HEADS, ORIGIN, read_record

    report, settings = parameters.report, parameters.adapter.model_dump()
    predictions, audit = read_predictions(DATA), read_audit(DATA, METRICS)
    heads, base = read_record(DATA / "predictions/heads.json", HEADS), read_record(DATA / "base.json", ORIGIN)
    adapter = SigmaTelepathyAdapter(**settings, calibration=read_calibration(CALIBRATION))
    evaluation = evaluate(predictions, adapter, report)
    summary = summarise(evaluation, report)
    same_heads = check_a(heads, predictions.sigma, evaluation.test, report.tolerance)
    lower_error = check_b(evaluation.differences, len(evaluation.test), report.batch)
    sentence = f"{verdict(same_heads, lower_error, evaluation.differences)} {audit.left_out}".rstrip()
    metrics = {
        "baseline": split_metrics(evaluation, "base", report.batch),
        "sigma": split_metrics(evaluation, "sigma", report.batch),
        "check_a": same_heads,
        "check_b": lower_error,
        "sigma_eval_report": {"verdict": sentence, **summary, "data": audit.counts | {"excluded": audit.excluded}},
        "provenance": provenance(predictions.shards["dataset"], base, predictions.features, heads, report.seed),
    }
    page = build_page(evaluation, metrics, audit, {"adapter": settings, "report": report.model_dump()})
    with Outputs() as outputs:
        for name, value in metrics.items():
            outputs.json(METRICS / f"{name}.json", value)
        folder = outputs.folder(REPORTS)
        (folder / "index.html").write_text(page, encoding="utf-8")
        # DVC's plots read these two.
        steps, joints = summary["by_step"], summary["by_joint"]
        by_step = {"step": range(1, predictions.horizon + 1), **{name: steps[name] for name in PLOTTED}}
        by_joint = {"joint": joints["joints"], **{name: joints[name]["rmse_joint_units"] for name in PLOTTED}}
        for name, columns in (("step", by_step), ("joint", by_joint)):
            write_csv(folder / f"error_by_{name}.csv", list(columns), zip(*columns.values(), strict=True))
    return f"report: {sentence}"
