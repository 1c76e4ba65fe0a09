"""``sigma report`` on the tables of a small, made-up run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sigma.commands import report
from sigma.parameters import PARAMS_FILE, read_parameters, read_yaml
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder, read_json, read_table, write_table
from sigma.shared.tables import from_table, to_table
from tests.predictions import JOINTS, TASKS, D, T, write_predictions
from tests.worlds import ROOT

SHIPPED = read_yaml(ROOT / PARAMS_FILE)
ADAPTER = {"min_scale": 0.0, "max_scale": 1.0, "risk_temperature": 0.5, "false_alarms": 0.01}
REPORT = {
    "tolerance": 0.05,
    "resamples": 200,
    "seed": 0,
    "batch": 4,
    "worst_windows": 10,
    "critical_threshold": 0.25,
    "tasks": [],
}
FILES = {"baseline", "sigma", "check_a", "check_b", "sigma_eval_report", "provenance"}


def _parameters(adapter=None, **changes):
    data = {"adapter": {**ADAPTER, **(adapter or {})}, "report": {**REPORT, **changes}}
    return read_parameters(Path("params.yaml"), SHIPPED | data)


def _run(root, monkeypatch, adapter=None, **changes):
    monkeypatch.chdir(root)
    line = report.run(_parameters(adapter, **changes))
    return line, {name: read_json(root / "metrics" / f"{name}.json") for name in FILES}


def _metrics(root, monkeypatch, *arguments, **changes):
    """As :func:`_run`, but the page, which takes most of the time, is not drawn."""
    monkeypatch.setattr("sigma.report.page.build_page", lambda *_, **__: "")
    return _run(root, monkeypatch, *arguments, **changes)


@pytest.fixture(scope="module")
def skilled(tmp_path_factory):
    """A report of 24 test episodes in which Sigma is much better than the base: folder, printed line, metrics."""
    root = tmp_path_factory.mktemp("skilled")
    write_predictions(root)
    with pytest.MonkeyPatch.context() as patch:
        return root, *_run(root, patch)


HOSTILE = "<script>alert(1)</script> $\\nosuchmacro{$ \"'><img src=x onerror=alert(2)>"
EXCLUDED = {"3": "failed frozen_state", "7": "listed in audit.exclude"}


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    """A report of 3 test episodes, of a hostile task among others, in which Sigma is worse than the base."""
    root = tmp_path_factory.mktemp("poor")
    write_predictions(root, test=3, skill=-0.5, tasks=(HOSTILE, TASKS[1]), excluded=EXCLUDED)
    with pytest.MonkeyPatch.context() as patch:
        return root, *_run(root, patch)


def test_a_skilled_sigma_passes_both_checks(skilled):
    _, line, metrics = skilled
    assert metrics["check_a"]["passed"] is True
    assert metrics["check_b"]["passed"] is True
    assert "CHECK A passed" in line and "CHECK B passed" in line
    assert set(metrics["baseline"]) == set(metrics["sigma"]) == {"test", "validation", "train"}
    keys = {"mse_vec", "mse_chk", "mse_trj", "mse_plan", "tau_l2", "sem_align", "samples", "batches"}
    for split in metrics["sigma"]:
        assert set(metrics["baseline"][split]) == set(metrics["sigma"][split]) == keys
    assert metrics["sigma"]["test"]["samples"] == 24 * 4
    assert metrics["sigma"]["test"]["batches"] == 24


def test_an_unskilled_sigma_fails_check_b_and_still_gets_its_report(poor):
    root, line, metrics = poor
    assert metrics["check_b"]["passed"] is False
    assert "CHECK B failed" in line and "higher" in line
    assert len(metrics["sigma_eval_report"]["worst_windows"]) == 10
    excess = [window["sigma"] - window["base"] for window in metrics["sigma_eval_report"]["worst_windows"]]
    assert excess == sorted(excess, reverse=True) and min(excess) > 0
    assert (root / "reports" / "index.html").is_file()


@pytest.mark.parametrize(
    ("change", "tolerance", "passed"),
    [({"same_heads": False}, 0.2, False), ({"control_tau": 0.9}, 0.05, False), ({"control_tau": 0.9}, 0.2, True)],
    ids=["heads", "factors", "tolerated"],
)
def test_other_heads_or_other_factors_fail_check_a(tmp_path, monkeypatch, change, tolerance, passed):
    write_predictions(tmp_path, test=2, **change)
    line, metrics = _metrics(tmp_path, monkeypatch, tolerance=tolerance)
    assert metrics["check_a"]["passed"] is passed
    assert ("CHECK A failed" in line) is not passed


def test_instructions_of_one_task_are_scored_together_with_what_memory_is_worth(skilled, tmp_path, monkeypatch):
    _, _, metrics = skilled
    assert set(metrics["sigma_eval_report"]["tasks"]) == set(TASKS)
    write_predictions(tmp_path, test=4, without_memory=0.0)
    patterns = {"into a box": ["*RED box", "put*blue*"], "other": ["*"]}
    named = [{"name": name, "instructions": texts} for name, texts in patterns.items()]
    _, metrics = _metrics(tmp_path, monkeypatch, tasks=named)
    summary = metrics["sigma_eval_report"]
    (name,) = summary["tasks"]
    whole = summary["subsets"]["whole"]
    assert name == "into a box" and summary["tasks"][name] == whole
    assert whole["mse"]["sigma_memory_cleared"]["mse_plan"] > 5 * whole["mse"]["sigma"]["mse_plan"]
    assert whole["sigma_minus"]["sigma_memory_cleared"]["delta_hi"] < 0


def test_few_episodes_are_said_to_be_few(poor):
    root, line, metrics = poor
    assert "n too small" in line
    assert "n too small" in metrics["sigma_eval_report"]["notes"][0]
    assert "n too small" in (root / "reports" / "index.html").read_text()


def test_scale_zero_repeats_the_baseline_to_the_bit(skilled, tmp_path, monkeypatch):
    _, _, before = skilled
    write_predictions(tmp_path)
    _, after = _run(tmp_path, monkeypatch, {"max_scale": 0.0, "min_scale": 0.0})
    for split, values in after["sigma"].items():
        for metric in ("mse_vec", "mse_chk", "mse_trj", "mse_plan"):
            assert values[metric] == after["baseline"][split][metric] == before["baseline"][split][metric]
            assert values[metric] != before["sigma"][split][metric]
    assert after["check_b"]["passed"] is False
    # No term has a say where the scale is fixed.
    page = (tmp_path / "reports/index.html").read_text()
    assert "In no test episode is Sigma held back" in page and "The gate in the same episode" not in page


def test_the_scores_are_those_of_the_plan_that_would_be_executed(tmp_path, monkeypatch):
    write_predictions(tmp_path, test=2)
    _, metrics = _metrics(tmp_path, monkeypatch, {"min_scale": 1.0})
    tables = (from_table(read_table(tmp_path / f"data/predictions/{name}.parquet")) for name in ("baseline", "sigma"))
    base, sigma = tables
    rows = base["split"] == "test"
    error = ((sigma["sigma_action"] - base["action"])[rows].astype(float) ** 2).reshape(-1, T * D).mean(axis=1).mean()
    assert metrics["sigma"]["test"]["mse_plan"] == pytest.approx(error, rel=1e-5)


def test_check_b_agrees_with_the_metrics_files(skilled):
    _, _, metrics = skilled
    for metric, item in metrics["check_b"]["test"].items():
        if not isinstance(item, dict):
            continue
        assert item["baseline"] == pytest.approx(metrics["baseline"]["test"][metric], rel=1e-12)
        assert item["sigma"] == pytest.approx(metrics["sigma"]["test"][metric], rel=1e-12)
        assert item["delta"] == pytest.approx(item["sigma"] - item["baseline"], abs=1e-12)
        assert item["delta_lo"] <= item["delta"] <= item["delta_hi"]


def test_a_residual_that_is_not_finite_leaves_finite_metrics(tmp_path, monkeypatch):
    write_predictions(tmp_path, test=2)
    path = tmp_path / "data/predictions/sigma.parquet"
    columns = {name: np.array(values) for name, values in from_table(read_table(path)).items()}
    columns["sigma_action"][-1] = np.nan
    write_table(path, to_table(columns))
    _, metrics = _metrics(tmp_path, monkeypatch)
    assert np.isfinite(metrics["sigma"]["test"]["mse_plan"])


def test_plot_files_have_a_row_a_step_and_a_row_a_joint(skilled):
    root, _, _ = skilled
    steps = (root / "reports/error_by_step.csv").read_text().splitlines()
    joints = (root / "reports/error_by_joint.csv").read_text().splitlines()
    assert steps[0] == "step,base,sigma,base_mean_of_samples,hold_state,mean_trajectory"
    assert len(steps) == 1 + T
    assert [line.split(",")[0] for line in joints] == ["joint", *JOINTS]


def test_episodes_that_the_audit_left_out_are_told_everywhere(poor):
    root, line, metrics = poor
    sentence = "2 of 13 recorded episodes were left out by the audit."
    assert line.endswith(sentence) and metrics["sigma_eval_report"]["verdict"].endswith(sentence)
    data = metrics["sigma_eval_report"]["data"]
    assert (data["episodes"], data["used"], data["excluded"]) == (13, 11, EXCLUDED)
    page = (root / "reports" / "index.html").read_text()
    assert page.count(sentence) == 1 and "11 of 13 recorded episodes are used, 2 left out." in page
    for episode, reason in EXCLUDED.items():
        assert f"<tr><td>{episode}</td><td>{reason}</td></tr>" in page


def test_no_word_is_lost_on_episodes_where_none_is_left_out(skilled):
    root, line, metrics = skilled
    assert "left out" not in line and metrics["sigma_eval_report"]["data"]["excluded"] == {}
    assert "32 of 32 recorded episodes are used, 0 left out." in (root / "reports" / "index.html").read_text()


def test_a_second_run_writes_the_same_bytes(poor, monkeypatch):
    root, _, _ = poor
    before = digest_folder(root / "reports"), digest_folder(root / "metrics")
    _run(root, monkeypatch)
    assert (digest_folder(root / "reports"), digest_folder(root / "metrics")) == before


def test_a_hostile_task_name_is_shown_and_not_run(poor):
    root, _, _ = poor
    page = (root / "reports" / "index.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.processes
def test_the_report_imports_no_torch(tmp_path):
    write_predictions(tmp_path, test=2)
    code = (
        "import json, sys\n"
        "from sigma.commands import report\n"
        "from sigma.parameters import read_parameters\n"
        f"report.run(read_parameters(data=json.loads({json.dumps(SHIPPED)!r})))\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_missing_table_is_one_line_and_leaves_the_former_report(tmp_path, monkeypatch):
    write_predictions(tmp_path, test=2)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/index.html").write_text("the former report")
    before = digest_file(tmp_path / "reports/index.html")
    (tmp_path / "data/predictions/sigma.parquet").unlink()
    with pytest.raises(SigmaError, match=r"sigma\.parquet: not found"):
        _run(tmp_path, monkeypatch)
    assert digest_file(tmp_path / "reports/index.html") == before
