"""Figures in the README files are those of the committed metrics."""

import io
import json
import shutil
import subprocess
import tarfile

import pytest

from sigma.shared.errors import SigmaError
from sigma.studies.benchmark.catalogue import CATALOGUE
from sigma.studies.benchmark.comparison import markdown
from sigma.studies.benchmark.kept_record import Measured, build
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


def benchmark_figures(peaks: tuple[float, ...] = (1024.0, 1024.0, 1024.0), spread: float = 8.0) -> dict:
    """Made-up figures of speed, one of which misses its target, with these peaks of memory as the dataset grows."""
    slow = build(CATALOGUE["windowing"], Measured([1.0], [2.0], {"split": {"decode": 3.0, "write": 1.0}}))
    quick = build(CATALOGUE["statistics"], Measured([1.0], [50.0]))
    sizes = {
        str(times): {
            "episodes": 25 * times,
            "windows": 100 * times,
            "seconds": {"median": 10.0 + 5 * times},
            "mib": {"median": peak, "min": peak - spread, "max": peak + spread},
            "disk_mib": 2.0 * times,
            "index_mib": 0.5 * times,
            "features_mib": 1.0 * times,
        }
        for times, peak in zip((1, 4, 16), peaks, strict=True)
    }
    memory = build(CATALOGUE["windowing_memory"], Measured([1.0], [1.0], {"by_copies": sizes}))
    base = build(CATALOGUE["evaluation_base"], Measured([50.0], [5.0]))
    found = {"windowing": slow, "statistics": quick, "windowing_memory": memory, "evaluation_base": base}
    return {name: record | {"other_programs": 0.0} for name, record in found.items()}


def measured(figures: dict, processor: str = "a processor") -> dict:
    return {"figures": figures, "machine": {"processor": processor}}


def test_runs_of_the_benchmark_stand_side_by_side(project):
    other = benchmark_figures()
    other["windowing"]["ratio"] = {"median": 0.625, "min": 0.5, "max": 0.75}
    del other["statistics"]
    (project / "stages/benchmark/runs").mkdir(parents=True)
    file = project / "stages/benchmark/runs/older.json"
    file.write_text(json.dumps(measured(other, "another")), encoding="utf-8")
    run(root=project)
    text = (project / "README.md").read_text(encoding="utf-8")
    assert "| ratio, ours to the peer's | this run, a processor | older, another |" in text
    assert "| `windowing` | 0.5 (0.5 to 0.5) | 0.625 (0.5 to 0.75) |" in text
    assert "| `statistics` | 0.02 (0.02 to 0.02) | not measured |" in text


def test_figures_of_speed_have_a_table_and_a_profile_of_what_is_missed(project):
    run(root=project)
    text = (project / "README.md").read_text(encoding="utf-8")
    assert "> 4 figures, 2 of 3 targets met; missed: windowing." in text
    assert "| 0.02 (0.02 to 0.02) | – |" in text
    assert "- `windowing`, 0.5 (≥ 0.7: missed). ours: decode 75 %, write 25 %." in text


def test_what_more_episodes_cost_is_drawn_on_from_what_was_measured(project):
    run(root=project)
    text = (project / "README.md").read_text(encoding="utf-8")
    # 0.2 s, 4 windows, 0.08 MiB of shards, 0.02 of the index and 0.04 of features an episode; 50 windows a second.
    assert "| 400 | 1.5 min | 1 GiB | 0.0312 GiB | 32 s | 0.00781 GiB | 0.0156 GiB |" in text
    assert "| 10,000 | 33.5 min | 1.19 GiB | 0.781 GiB | 13.3 min | 0.195 GiB | 0.391 GiB |" in text
    assert "| 1,000,000 | 2.31 days | 20.5 GiB | 78.1 GiB | 22.2 h | 19.5 GiB | 39.1 GiB |" in text


@pytest.mark.parametrize(
    ("peaks", "spread", "peak"),
    [
        # Within the spread: the index alone grows, 0.02 MiB an episode, whichever way the medians happen to lie.
        ((1100.0, 1060.0, 1024.0), 100.0, "20.5 GiB"),
        ((1024.0, 1060.0, 1100.0), 100.0, "20.6 GiB"),
        # Ranges apart: 75 MiB in 375 episodes.
        ((1025.0, 1060.0, 1100.0), 8.0, "196 GiB"),
    ],
)
def test_noise_of_the_peak_memory_is_not_drawn_on(project, peaks, spread, peak):
    figures = json.dumps(measured(benchmark_figures(peaks, spread)))
    (project / "metrics/benchmark.json").write_text(figures, encoding="utf-8")
    run(root=project)
    assert f"| 1,000,000 | 2.31 days | {peak} |" in (project / "README.md").read_text(encoding="utf-8")


def test_the_table_of_speed_names_the_peers_backend_and_those_that_did_not_load():
    record = build(CATALOGUE["loading"], Measured([100.0], [2.0]))
    record["peer_value"] |= {"video_backend": "pyav", "backends_that_fail": {"torchcodec": "no FFmpeg"}}
    assert "faster video backend (pyav; torchcodec did not load) |" in markdown({"loading": record})


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
    (tmp_path / "metrics/benchmark.json").write_text(json.dumps(measured(benchmark_figures())), encoding="utf-8")
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
