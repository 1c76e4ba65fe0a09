"""``sigma benchmark PART`` and ``sigma benchmark-page``: what they write, and what they name where a thing is wrong."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, read_json, write_json
from sigma.studies.benchmark import benchmark, benchmark_page
from sigma.studies.benchmark.catalogue import CATALOGUE, PARTS, figures_of
from sigma.studies.benchmark.measure import Measured
from sigma.studies.benchmark.record import build
from tests.imports import ROOT
from tests.report.test_page import Page

PARAMS = Path("stages/benchmark/params.yaml")
MACHINE = {"processor": "made <up>", "cores": 2, "packages": {"torch": "2.11.0"}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / PARAMS.parent).mkdir(parents=True)
    for file in (PARAMS, Path("params.yaml")):
        shutil.copyfile(ROOT / file, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_unknown_names_are_one_line_before_any_work(folder):
    with pytest.raises(SigmaError, match=r"^benchmark: no part 'flying'; legal: loading, windowing, .*startup$"):
        benchmark.run(part="flying", params=PARAMS, only=[])
    with pytest.raises(SigmaError, match=r"^benchmark: startup: no figure 'decision'; legal: help, repro, adapter"):
        benchmark.run(part="startup", params=PARAMS, only=["decision"])
    assert not (folder / "stages/benchmark/out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("repetitions: 5", "repetitions: 4", r"benchmark\.repetitions: .*found 4; legal: integer ≥ 5 and ≤ 1000"),
        ("[25, 100]", "[25, 25]", r"benchmark\.memory_episodes: the second number must be the larger one"),
        ("decisions: 20", "decision: 20", r"benchmark\.\w+: "),
    ],
)
def test_a_wrong_setting_is_named_with_its_range(folder, old, new, message):
    text = PARAMS.read_text()
    assert old in text
    PARAMS.write_text(text.replace(old, new))
    with pytest.raises(SigmaError, match=rf"^stages/benchmark/params\.yaml: {message}"):
        benchmark.run(part="windowing", params=PARAMS, only=[])


@pytest.mark.processes
def test_a_figure_that_fails_is_named_and_nothing_is_written(folder):
    with pytest.raises(SigmaError, match=r"^benchmark: video_to_shards: data/dataset: not a LeRobotDataset"):
        benchmark.run(part="windowing", params=PARAMS, only=["video_to_shards"])
    assert not (folder / "stages/benchmark/out").exists()


def test_figures_that_were_not_asked_for_again_stay(folder, monkeypatch):
    from sigma.studies.benchmark import run

    calls = []

    def measured(name, settings):
        calls.append(name)
        return build(CATALOGUE[name], Measured([float(len(calls))], [1.0])) | {"other_programs": 0.0}

    monkeypatch.setattr(run, "in_fresh_process", measured)
    line = benchmark.run(part="startup", params=PARAMS, only=[])
    assert line == "benchmark: startup: 3 figures, 3 of 3 targets met" and calls == figures_of("startup")
    benchmark.run(part="startup", params=PARAMS, only=["repro"])
    written = read_json(folder / "stages/benchmark/out/startup.json")
    medians = {name: record["own"]["median"] for name, record in written["figures"].items()}
    assert medians == {"help": 1.0, "repro": 4.0, "adapter_experiment": 3.0}
    assert written["machine"]["repetitions"] == 5 and written["machine"]["packages"]["torch"]


@pytest.mark.slow
def test_a_figure_is_measured_in_a_process_of_its_own(folder):
    line = benchmark.run(part="startup", params=PARAMS, only=["help"], output=folder / "help.json")
    record = read_json(folder / "help.json")["figures"]["help"]
    assert line.startswith("benchmark: startup: 1 figures") and len(record["ratio"]["rounds"]) == 5


@pytest.fixture
def parts(folder):
    """Files of all parts as the stages leave them, with made-up values: ours takes half of the peer's time."""
    out = folder / "stages/benchmark/out"
    for part in PARTS:
        figures = {
            name: build(CATALOGUE[name], Measured([3.0, 1.0, 2.0], [4.0] * 3)) | {"other_programs": 0.05}
            for name in figures_of(part)
        }
        write_json(out / f"{part}.json", {"machine": MACHINE, "figures": figures})
    return out


def join() -> str:
    out = Path("stages/benchmark/out")
    return benchmark_page.run(parts=out, output=Path("metrics/benchmark.json"), page=out / "index.html")


def test_the_page_begins_with_the_targets_and_stands_alone(parts):
    line = join()
    bounds = [figure.target.bound for figure in CATALOGUE.values() if figure.target is not None]
    judged, met = len(bounds), bounds.count("at_most")
    # The ratio 0.5 and our own 2 s meet every upper bound; twice the rate meets no lower one.
    assert line.startswith(f"benchmark: {len(CATALOGUE)} figures, {met} of {judged} targets met; missed: loading,")
    text = (parts / "index.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and page.sources == [] and "script" not in page.tags
    assert "made &lt;up&gt;" in text and "made <up>" not in text
    assert text.count(": met</td>") == met and text.count(": missed</td>") == judged - met
    assert "0.5 (0.25 to 0.75)" in text
    metrics = read_json(Path("metrics/benchmark.json"))
    assert set(metrics["figures"]) == set(CATALOGUE) and metrics["machine"] == MACHINE
    before = digest_file(parts / "index.html")
    join()
    assert digest_file(parts / "index.html") == before


def test_a_missing_part_and_one_of_another_machine_are_named(parts):
    join()
    before = digest_file(Path("metrics/benchmark.json"))
    file = parts / "training.json"
    record = read_json(file)
    write_json(file, record | {"machine": MACHINE | {"cores": 64}})
    with pytest.raises(SigmaError, match=r"training\.json: measured with another cores \(64\) than .*\(2\); measure"):
        join()
    file.unlink()
    with pytest.raises(SigmaError, match=r"training\.json: not found"):
        join()
    assert digest_file(Path("metrics/benchmark.json")) == before


def test_the_page_needs_no_torch(parts):
    code = (
        "import sys\nfrom pathlib import Path\nfrom sigma.studies.benchmark import benchmark, benchmark_page\n"
        "assert not {'torch', 'numpy', 'pydantic', 'jinja2'} & set(sys.modules)\nout = Path('stages/benchmark/out')\n"
        "benchmark_page.run(parts=out, output=Path('metrics/benchmark.json'), page=out / 'index.html')\n"
        "assert not {'torch', 'lerobot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, check=True)


def test_the_shipped_settings_are_legal_and_each_is_explained():
    from sigma.studies.benchmark.settings import read_benchmark

    settings = read_benchmark(ROOT / PARAMS).model_dump()
    lines = (ROOT / PARAMS).read_text(encoding="utf-8").splitlines()[1:]
    assert [line.partition(":")[0].strip() for line in lines] == list(settings)
    assert all(" # " in line for line in lines)
