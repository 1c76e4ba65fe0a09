"""``sigma evidence`` on the results of made-up arms: the page stands alone and begins with the table of outcomes."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sigma.commands import report
from sigma.parameters import read_parameters
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, read_json, write_json
from sigma.studies.evidence import evidence
from tests.arm_folders import write_arms
from tests.imports import ROOT
from tests.report.test_page import Page
from tests.studies.ablation.test_ablation import prepare
from tests.studies.ablation.test_ablation import run as run_ablation
from tests.worlds import inside

OUTPUT = Path("stages/evidence/out/index.html")
ARM = {"success": 0.5, "success_lo": 0.4, "success_hi": 0.6, "progress": 0.71, "episodes": 200}
PAIR = {"difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.001}
ROLLOUT = {
    "pick_place": {
        "arms": {"sigma": ARM | {"decisions_per_second": 67.4}, "base": ARM, "plain_lora_mean": ARM | {"success": 0.3}},
        "paired": {"plain_lora_mean": PAIR},
    },
    "pick_place/delay": {"arms": {"sigma": ARM}, "paired": {}},
    "reach": {"arms": {"sigma": ARM, "base": ARM | {"success": 0.51}}, "paired": {}},
    "retention": {"arms": {"sigma": ARM | {"difference": -0.01, "difference_lo": -0.02, "difference_hi": 0.0}}},
}
SCORE = {"score": 0.8, "lo": 0.7, "hi": 0.9}
PROBE = {"chance": 0.5, "base": SCORE, "base_history": SCORE, "state": SCORE}
PROBE |= {name: SCORE | {"delta": 0.01, "delta_lo": -0.02, "delta_hi": 0.03} for name in ("tau", "memory", "intent")}
CORRELATION = {"spearman": 0.31, "lo": 0.2, "hi": 0.4}
DIAGNOSTICS = {
    "simulated": False,
    "probes": {"instruction": PROBE, "episode_position": PROBE},
    "risk": dict.fromkeys(("vector", "chunk", "trajectory"), CORRELATION),
}


def jpeg() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def run(root: Path) -> str:
    with inside(root):
        return evidence.run(params=Path("stages/evidence/params.yaml"), output=OUTPUT)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A run of report and ablation, without closed loop and diagnostics; read only."""
    root = prepare(tmp_path_factory.mktemp("evidence"), test=8)
    write_arms(root)
    run_ablation(root)
    with inside(root):
        report.run(read_parameters())
    (root / "stages/evidence").mkdir()
    shutil.copyfile(ROOT / "stages/evidence/params.yaml", root / "stages/evidence/params.yaml")
    return root


@pytest.fixture
def project(done, tmp_path) -> Path:
    """A copy that a test may alter."""
    for part in ("metrics", "stages/ablation/summary", "stages/evidence"):
        shutil.copytree(done / part, tmp_path / part, ignore=shutil.ignore_patterns("out"))
    return tmp_path


def parsed(root: Path) -> tuple[str, Page]:
    text = (root / OUTPUT).read_text()
    parser = Page()
    parser.feed(text)
    assert parser.open == []
    return text, parser


def test_without_closed_loop_and_diagnostics_the_page_says_so(project):
    line = run(project)
    text, _ = parsed(project)
    assert line == "evidence: 10 comparisons, Sigma better in 10"
    assert "32 windows of 8 test episodes" in text and "success on" not in text
    assert "The closed loop was not run: <code>metrics/rollout.json</code> is absent" in text
    assert "The diagnostics were not made" in text
    assert "n too small: 8 test episodes" in text


def test_the_outcomes_come_first_and_nothing_is_loaded_from_elsewhere(project):
    write_json(project / "metrics/rollout.json", ROLLOUT)
    write_json(project / "metrics/diagnostics.json", DIAGNOSTICS)
    sheets = project / "stages/rollout/out/videos/plain_lora_mean"
    sheets.mkdir(parents=True)
    (sheets / "contact_sheet.jpg").write_bytes(jpeg())
    (sheets / "seed_7.mp4").write_bytes(b"no picture")
    line = run(project)
    text, page = parsed(project)
    assert line == "evidence: 15 comparisons, Sigma better in 11, not measured in 4"
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings[0] == "Outcomes"
    cells = ("plain LoRA, mean of samples", "success on pick_place, points", "+20.0", "+10.0 to +30.0", "0.001")
    assert "".join(f"<td>{cell}</td>" for cell in cells) + '<td class="below">better</td>' in text
    assert "script" not in page.tags and "link" not in page.tags
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"url\(|@import|https?://", text)
    pictures = [source for source in page.sources if source.startswith("data:image/svg+xml;base64,")]
    assert len(pictures) == 3, "forest plot, curves and success"
    for source in pictures:
        assert ElementTree.fromstring(base64.b64decode(source.split(",", 1)[1])).tag.endswith("svg")
    assert len([source for source in page.sources if source.startswith("data:image/jpeg")]) == 1
    for words in (
        "plain LoRA, zero noise",
        "τ replaced by its train mean",
        "hold state",
        "Harder settings",
        "0.71",
        "<td>67</td>",
    ):
        assert words in text
    assert "The simulator did not make this dataset" in text and "cube position (R²)" not in text
    assert "trajectory 0.31 (0.20 to 0.40)" in text


def test_numbers_of_the_page_are_those_of_the_metrics_file(project):
    from sigma.report.html import number

    run(project)
    text = (project / OUTPUT).read_text()
    found = read_json(project / "metrics/ablation.json")
    for split in ("test", "validation"):
        for name in ("direct", "plain_lora_mean"):
            entry = found[split]["rows"][name]["mse_plan"]
            assert f"[{number(entry['delta_lo'])}, {number(entry['delta_hi'])}]" in text
            assert f"{number(entry['mean'])}<span" in text
    for value in found["test"]["rows"]["direct"]["mse_plan"]["seeds"].values():
        assert number(value) in text


@pytest.mark.processes
def test_a_second_run_writes_the_same_bytes_and_imports_no_torch(project):
    run(project)
    before = digest_file(project / OUTPUT)
    code = (
        "import sys\nfrom pathlib import Path\nfrom sigma.studies.evidence import evidence\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        f"evidence.run(params=Path('stages/evidence/params.yaml'), output=Path({str(OUTPUT)!r}))\n"
        "assert not {'torch', 'mujoco', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert digest_file(project / OUTPUT) == before


def test_a_hostile_task_name_is_shown_and_not_run(project):
    hostile = "<script>alert(1)</script>"
    write_json(project / "metrics/rollout.json", ROLLOUT | {hostile: ROLLOUT["reach"]})
    run(project)
    text = (project / OUTPUT).read_text()
    assert "<script" not in text and "&lt;script&gt;" in text


def test_missing_files_and_other_windows_are_one_line_and_leave_the_former_page(project):
    run(project)
    before = digest_file(project / OUTPUT)
    path = project / "metrics/check_b.json"
    check = read_json(path)
    check["test"]["mse_plan"]["baseline"] *= 1.01
    path.write_text(json.dumps(check))
    with pytest.raises(SigmaError, match=r"they are of different windows; run `dvc repro` and"):
        run(project)
    (project / "metrics/ablation.json").unlink()
    with pytest.raises(SigmaError, match=r"metrics/ablation\.json: not found"):
        run(project)
    assert digest_file(project / OUTPUT) == before
