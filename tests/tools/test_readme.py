"""Figures in the README files are those of the committed metrics."""

import io
import json
import shutil
import subprocess
import tarfile

import pytest

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.catalogue import CATALOGUE
from sigma.studies.benchmark.measure import Measured
from sigma.studies.benchmark.record import build
from sigma.tools.readme import REGIONS, rendered
from sigma.tools.readme_figures import run
from tests.imports import ROOT

FILES = ["README.md", *sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("stages/*/README.md"))]


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The committed README and metrics files: a run in this checkout may have written other last digits."""
    folder = tmp_path_factory.mktemp("committed")
    archive = subprocess.run(
        ["git", "archive", "HEAD", *FILES, "metrics", "stages/embedded", "stages/evidence", "stages/benchmark"],
        cwd=ROOT,
        capture_output=True,
    )
    assert archive.returncode == 0, archive.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_committed_figures_are_those_of_the_committed_metrics(committed, name):
    text = (committed / name).read_text(encoding="utf-8")
    assert rendered(text, committed) == text, "run `sigma figures` and commit"


def benchmark_figures() -> dict:
    """Made-up figures of speed, one of which misses its target."""
    slow = build(CATALOGUE["loading"], Measured([1.0], [2.0]))
    quick = build(CATALOGUE["help"], Measured([1.0], [50.0]))
    figures = {name: record | {"other_programs": 0.0} for name, record in (("loading", slow), ("help", quick))}
    return {"figures": figures, "machine": {"processor": "a processor"}}


def test_figures_of_speed_have_a_line_on_the_targets_and_a_table(project):
    run(root=project)
    text = (project / "README.md").read_text(encoding="utf-8")
    assert "> 2 figures, 1 of 2 targets met; missed: loading." in text
    assert "| 0.02 (0.02 to 0.02) | ≤ 1.5: met |" in text


@pytest.fixture
def project(tmp_path):
    for name in ("metrics", "stages/embedded", "stages/evidence"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "metrics/check_a.json",
        "metrics/check_b.json",
        "metrics/rollout_sigma.json",
        "metrics/ablation.json",
        "metrics/rollout.json",
        "metrics/confirmation.json",
        "metrics/confirmation_rollout.json",
        "metrics/diagnostics.json",
        "stages/evidence/params.yaml",
        "stages/embedded/metrics.json",
        "stages/embedded/curve.csv",
        "stages/embedded/pretrain.json",
    ):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "metrics/benchmark.json").write_text(json.dumps(benchmark_figures()), encoding="utf-8")
    text = "\n".join(f"before\n<!-- figures: {name} -->\n<!-- end -->\nafter" for name in REGIONS)
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_changed_metric_changes_the_text_and_only_its_region(project):
    run(root=project)
    first = (project / "README.md").read_text(encoding="utf-8")
    assert first.count("before\n") == first.count("\nafter") == len(REGIONS)
    file = project / "metrics/check_b.json"
    check = json.loads(file.read_text(encoding="utf-8"))
    check["test"]["mse_plan"]["sigma"] = 0.98765
    file.write_text(json.dumps(check), encoding="utf-8")
    assert run(root=project) == "figures: README.md changed"
    second = (project / "README.md").read_text(encoding="utf-8")
    assert "**0.9876**" in second or "**0.9877**" in second
    assert first.split("<!-- figures: control -->")[1] == second.split("<!-- figures: control -->")[1]
    assert run(root=project) == "figures: nothing changed"


def test_metrics_of_another_form_are_one_line_that_names_region_and_key(project):
    (project / "stages/embedded/metrics.json").write_text('{"trained": {"lift": {"success": 1}}, "seeds": 1}')
    with pytest.raises(SigmaError, match=r"figures: base: .* lacks 'success_lo'"):
        run(root=project)


def test_an_unknown_region_is_refused_by_name(project):
    with pytest.raises(SigmaError, match=r"figures: weather: no such region; legal: .*errors"):
        rendered("<!-- figures: weather -->\n<!-- end -->", project)
    with pytest.raises(SigmaError, match=r"README\.md: not found"):
        run(root=project / "metrics")
