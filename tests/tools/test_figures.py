"""Tables in the README files are those of the committed metrics."""

import io
import json
import shutil
import subprocess
import tarfile

import pytest

from sigma.shared.errors import SigmaError
from sigma.tools.figures import BLOCKS, filled, run
from tests.imports import ROOT

FILES = ["README.md", *sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("stages/*/README.md"))]


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The committed README and metrics files: a run in this checkout may have written other last digits."""
    folder = tmp_path_factory.mktemp("committed")
    archive = subprocess.run(
        ["git", "archive", "HEAD", *FILES, "metrics", "stages/world"], cwd=ROOT, capture_output=True
    )
    assert archive.returncode == 0, archive.stderr.decode()
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def project(tmp_path):
    for name in ("metrics", "stages/world"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = "\n".join(f"before\n<!-- figures: {name} -->\n<!-- end -->\nafter" for name in BLOCKS)
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_committed_figures_are_those_of_the_committed_metrics(committed, name):
    text = (committed / name).read_text(encoding="utf-8")
    assert filled(text, committed) == text, "run `sigma figures` and commit"


def test_a_changed_metric_changes_its_block_and_only_that(project):
    run(root=project)
    first = (project / "README.md").read_text(encoding="utf-8")
    assert first.count("before\n") == first.count("\nafter") == len(BLOCKS)
    file = project / "metrics/ablation.json"
    metrics = json.loads(file.read_text(encoding="utf-8"))
    metrics["test"]["rows"]["sigma"]["mse_plan"]["mean"] = 0.98761
    file.write_text(json.dumps(metrics), encoding="utf-8")
    assert run(root=project).startswith("figures: README.md")
    second = (project / "README.md").read_text(encoding="utf-8")
    assert "| **Sigma** | 0.9876 |" in second
    assert first.split("<!-- figures: base -->")[1] == second.split("<!-- figures: base -->")[1]
    assert run(root=project) == "figures: nothing changed"


def test_metrics_of_another_form_are_one_line_that_names_block_and_key(project):
    (project / "stages/world/metrics.json").write_text('{"trained": {"lift": {"success": 1}}, "seeds": 1}')
    with pytest.raises(SigmaError, match=r"figures: base: .* lacks a key \('success_lo'\)"):
        run(root=project)


def test_an_unknown_block_is_refused_by_name(project):
    with pytest.raises(SigmaError, match=r"figures: weather: no such block; legal: .*results"):
        filled("<!-- figures: weather -->\n<!-- end -->", project)
    with pytest.raises(SigmaError, match=r"README\.md: not found"):
        run(root=project / "stages")
