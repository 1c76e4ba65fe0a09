"""One run at a time in a project, and no record of a run whose inputs were edited meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import sigma.cli.guard as module
from sigma.cli import app as cli
from sigma.cli.guard import alone, clear, find_stage, guard, inputs
from sigma.shared.errors import SigmaError
from tests.imports import NO_DEPENDENCY, ROOT
from tests.worlds import inside

yaml = YAML(typ="safe")
ARM = ["arm", "--arm", "plain", "--seed", "0"]
PIPELINE = yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A DVC project with one stage of the pipeline's names and one further stage, and what they depend on."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  report:\n    cmd: python -m sigma report\n    params: [adapter, report.seed]\n"
        "    deps: [data/table, sigma/report, sigma/shared/files.py, uv.lock]\n    outs: [reports, metrics/a.json]\n"
    )
    (tmp_path / "stages/more").mkdir(parents=True)
    (tmp_path / "stages/more/dvc.yaml").write_text(
        "stages:\n  arm:\n    cmd: >-\n      python -m sigma arm --arm ${item.arm} --seed\n      ${item.seed}\n"
        "    params:\n      - stages/more/params.yaml:\n          - arms.${item.arm}\n"
        "    deps: [sigma/shared/files.py]\n"
    )
    (tmp_path / "params.yaml").write_text("adapter: {scale: 1}\nreport: {seed: 0, batch: 4}\n")
    (tmp_path / "stages/more/params.yaml").write_text("arms: {plain: 1}\nother: 2\n")
    for name in ("sigma/shared/files.py", "sigma/report/page.html", "uv.lock", "data/table"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setenv("DVC_STAGE", "report")
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "sigma")  # as if this folder's code ran
    with inside(tmp_path):
        yield tmp_path


def edit(file: Path, before: str, after: str) -> None:
    file.write_text(file.read_text().replace(before, after))


EDITS = {
    "params.yaml: adapter": ("params.yaml", "scale: 1", "scale: 2"),
    "params.yaml: report.seed": ("params.yaml", "seed: 0", "seed: 1"),
    "sigma/shared/files.py": ("sigma/shared/files.py", "files", "pages"),
    "sigma/report": ("sigma/report/page.html", "page", "side"),
    "uv.lock": ("uv.lock", "lock", "key"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_input_that_is_edited_during_a_run_is_named_and_the_run_fails(project, name):
    file, before, after = EDITS[name]
    reason = f"report: {name} was edited while it ran"
    with pytest.raises(SigmaError, match=reason) as caught, guard(["report"], cli.STAGES):
        edit(project / file, before, after)
    assert "\n" not in str(caught.value)


def test_what_the_stage_does_not_depend_on_may_be_edited_and_so_may_data_which_dvc_holds(project, monkeypatch):
    with guard(["report"], cli.STAGES):
        edit(project / "params.yaml", "batch: 4", "batch: 8")
        edit(project / "params.yaml", "adapter:", "# a comment\nadapter:")
        (project / "sigma/other.py").write_text("")
        (project / "data/table").write_text("")
    monkeypatch.setenv("DVC_STAGE", "../more/dvc.yaml:arm@plain-0")
    with guard(ARM, cli.STAGES):
        edit(project / "stages/more/params.yaml", "other: 2", "other: 3")
    reason = r"stages/more/params\.yaml: arms.* was edited"
    with pytest.raises(SigmaError, match=reason), guard(ARM, cli.STAGES):
        edit(project / "stages/more/params.yaml", "plain: 1", "plain: 2")


@pytest.mark.parametrize("code", [0, None])
def test_a_command_line_that_ends_well_is_checked_too(project, code):
    with guard(["report"], cli.STAGES):
        raise SystemExit(code)
    with pytest.raises(SigmaError, match="was edited"), guard(["report"], cli.STAGES):
        edit(project / "uv.lock", "lock", "key")
        raise SystemExit(code)


def test_a_failing_command_keeps_its_own_end(project):
    for error in (SystemExit(2), SigmaError("first"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, guard(["report"], cli.STAGES):
            edit(project / "uv.lock", "l", "L")
            raise error
        assert caught.value is error


def test_without_dvc_nothing_is_recorded_and_nothing_checked(project, monkeypatch):
    monkeypatch.delenv("DVC_STAGE")
    with guard(["report"], cli.STAGES):
        edit(project / "params.yaml", "scale: 1", "scale: 2")


def test_code_of_another_folder_is_refused_where_dvc_would_record_this_ones(project, monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", ROOT / "sigma")
    reason = f"the code that runs is {ROOT}/sigma, not sigma of this folder"
    with pytest.raises(SigmaError, match=reason), guard(["report"], cli.STAGES):
        pass
    monkeypatch.delenv("DVC_STAGE")
    with guard(["report"], cli.STAGES):
        pass


def shipped() -> list[tuple[str, str]]:
    found = []
    for file in (ROOT / "dvc.yaml", *sorted(ROOT.glob("stages/*/dvc.yaml"))):
        stages = yaml.load(file.read_text(encoding="utf-8"))["stages"]
        found += [pytest.param(file, name, id=f"{file.parent.name}-{name}") for name in stages]
    return found


@pytest.mark.parametrize(("file", "name"), shipped())
def test_every_shipped_stage_is_found_by_its_command_and_its_sources_are_watched(file, name):
    stage = yaml.load(file.read_text(encoding="utf-8"))["stages"][name]
    words = stage["cmd"].replace("${item.arm}", "plain").replace("${", "x").replace("}", "").split()[3:]
    for address in (name, f"../{file.parent.name}/dvc.yaml:{name}@plain-0"):
        assert find_stage(words, address, ROOT) == stage
    assert find_stage([*words, "--more"], name, ROOT) == find_stage(words, "other", ROOT) == {}
    with inside(ROOT):
        watched = inputs(stage)
    sources = {path for path in stage["deps"] if path.endswith((".py", ".html", ".css", ".lock"))}
    files = {path for path in watched if ": " not in path}
    assert sources <= files and all(path.startswith("sigma/") or path == "uv.lock" for path in files)
    assert all(value is not None for value in watched.values()), watched
    keys = sum(1 if isinstance(entry, str) else sum(map(len, entry.values())) for entry in stage.get("params", ()))
    assert sum(": " in path for path in watched) == keys


HOLD = """
import sys, time
from pathlib import Path
import sigma.cli.guard as module
module.SOURCES = Path("elsewhere")  # the project of the test has no code of its own
with module.guard(sys.argv[1:], {"window", "report"}):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.processes
def test_the_pipelines_commands_exclude_each_other_until_their_process_ends(project):
    process = holder(project, "window")
    try:
        for command in ("window", "report"):
            reason = rf"{command}: `sigma window` \(process {process.pid}\) still works in this project"
            with pytest.raises(SigmaError, match=reason) as caught, guard([command], {"window", "report"}):
                pass
            assert "\n" not in str(caught.value)
        with guard(["report", "--help"], {"window", "report"}), guard(["plan"], {"window", "report"}):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with guard(["report"], {"window", "report"}):
        assert (project / ".dvc/tmp/sigma-pipeline.lock").read_text() == f"{os.getpid()} report"


@pytest.mark.processes
def test_a_further_stage_excludes_itself_alone(project):
    process = holder(project, *ARM)
    try:
        with pytest.raises(SigmaError, match="sigma arm --arm plain --seed 0"), guard(ARM, cli.STAGES):
            pass
        with guard([*ARM[:-1], "1"], cli.STAGES), guard(["report"], cli.STAGES):
            pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.processes
def test_another_project_is_another_lock_and_without_dvc_there_is_none(project, tmp_path_factory):
    other, bare = (tmp_path_factory.mktemp(name) for name in ("other", "bare"))
    (other / ".dvc").mkdir()
    with alone("pipeline", "report"):
        with inside(other), alone("pipeline", "report"):
            pass
        with inside(bare), alone("pipeline", "report"):
            assert not list(bare.iterdir())


def test_leftovers_of_killed_runs_go_and_nothing_else(project):
    kept = ["reports/page", ".reports.mine", ".reportsabcdefgh", "metrics/.a.json.short", "metrics/.b.json.abcdefgh"]
    gone = [".reports.abcdef_1/page", ".reports.abcdef12.old/page", "metrics/.a.json.12345678"]
    for name in (*kept, *gone):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    clear(find_stage(["report"], "report"))
    assert [name for name in (*kept, *gone) if (project / name).exists()] == kept


def test_the_guard_belongs_to_no_stage():
    assert "sigma/cli/guard.py".startswith(NO_DEPENDENCY)
    assert not any("sigma/cli/guard.py" in stage["deps"] for stage in PIPELINE.values())
