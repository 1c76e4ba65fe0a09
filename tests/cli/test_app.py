"""The command line: quick to start, one line for a fault, nothing of a failed run left behind."""

import ast
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from sigma.cli import app as cli
from sigma.cli import dispatch
from sigma.parameters.schema import PARAMS_FILE
from sigma.shared.errors import SigmaError
from tests.worlds import ROOT, inside

HEAVY = ("torch", "lerobot", "transformers", "pandas", "matplotlib", "mujoco", "scipy", "pyarrow", "numpy", "pydantic")


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / PARAMS_FILE).write_text((ROOT / PARAMS_FILE).read_text())
    return tmp_path


def loaded(code: str, folder: Path) -> set[str]:
    """Top-level modules in ``sys.modules`` after ``code``."""
    done = python(f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))", folder)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_else(tmp_path):
    assert not loaded("import sigma", tmp_path) & {*HEAVY, "typer", "click", "rich"}


def test_help_loads_no_library_that_computes(tmp_path):
    code = "sys.argv = ['sigma', '--help']\nfrom sigma.cli.app import main\ntry:\n    main()\nexcept SystemExit: pass"
    assert not loaded(code, tmp_path) & {*HEAVY, "rich"}, "rich alone takes three times as long as the rest"


def test_reading_every_parameter_loads_no_library_that_computes(project):
    found = loaded("from sigma.parameters import read_parameters\nread_parameters()", project)
    assert "pydantic" in found
    assert not found & {*HEAVY} - {"pydantic"}


def test_the_public_names_load_on_first_use(tmp_path):
    assert "torch" not in loaded("from sigma import SigmaTelepathyAdapter", tmp_path)
    with pytest.raises(AttributeError, match="SigmaNothing"):
        import_module("sigma").SigmaNothing  # noqa: B018


def sigma(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return python(
        f"import sys\nsys.argv = ['sigma', *{list(arguments)!r}]\nfrom sigma.cli.app import main\nmain()",
        folder,
        **environment,
    )


def test_help_lists_every_stage(tmp_path):
    done = sigma(tmp_path, "--help")
    assert done.returncode == 0
    assert all(stage in done.stdout for stage in cli.STAGES)


def test_help_lists_commands_under_their_headings_whole(tmp_path):
    lines = sigma(tmp_path, "--help").stdout.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options:", "Stages:", "Tools:", "Study:", "Speed:"]
    assert lines[lines.index("Stages:") + 1].startswith("  fetch ")
    nested = sigma(tmp_path, "profile", "--help").stdout.replace("\n", " ")
    assert "Commands:" in nested and "..." not in nested.partition("Commands:")[2]


def test_a_wrong_parameter_is_one_line_and_status_one(project):
    text = (project / PARAMS_FILE).read_text()
    assert "  rank: 16" in text
    (project / PARAMS_FILE).write_text(text.replace("  rank: 16", "  rank: many"))
    for stage in ("fetch", "report"):
        done = sigma(project, stage)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
        assert done.stderr.startswith("sigma: error: params.yaml: lora.rank: ")
        assert "found 'many'; legal: integer ≥ 1 and ≤ 1024" in done.stderr
    assert [file.name for file in project.iterdir()] == [PARAMS_FILE.name]


def test_without_parameters_or_inputs_the_line_says_what_to_do(project):
    done = sigma(project, "report")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "not found; run the stage that writes it (dvc repro)" in done.stderr
    (project / PARAMS_FILE).unlink()
    done = sigma(project, "report")
    assert done.returncode == 1
    assert done.stderr == "sigma: error: params.yaml: not found; run the command from the project's root\n"


def test_an_unknown_command_is_a_usage_error(tmp_path):
    done = sigma(tmp_path, "fly")
    assert done.returncode == 2 and "fly" in done.stderr and "Traceback" not in done.stderr


def fake_stage(monkeypatch, run) -> None:
    monkeypatch.setattr("sigma.parameters.read_parameters", lambda: {})
    monkeypatch.setattr(dispatch, "import_module", lambda name: type("Module", (), {"run": staticmethod(run)}))


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sigma", *arguments])
    try:
        cli.main()
        status = 0
    except SystemExit as error:
        status = error.code or 0
    out, err = capsys.readouterr()
    return status, out, err


def test_a_stage_prints_its_line_and_logs_time_and_memory(monkeypatch, capsys, tmp_path):
    fake_stage(monkeypatch, lambda parameters: "window: done")
    with inside(tmp_path):
        assert call(monkeypatch, capsys, "window") == (0, "window: done\n", "")
    record = json.loads((tmp_path / "logs/window.json").read_text())
    assert record["stage"] == "window" and record["seconds"] >= 0 and record["peak_memory_mib"] > 1


def test_a_fault_is_one_line_however_it_was_written(monkeypatch, capsys, tmp_path):
    def run(parameters):
        raise SigmaError("a.json: first\n   second")

    fake_stage(monkeypatch, run)
    with inside(tmp_path):
        assert call(monkeypatch, capsys, "window") == (1, "", "sigma: error: a.json: first second\n")
    assert not (tmp_path / "logs").exists()


def test_an_interrupt_ends_with_the_shells_status(monkeypatch, capsys, tmp_path):
    def run(parameters):
        # What Python raises on SIGINT; a signal itself would be lost where the parent ignores it.
        raise KeyboardInterrupt

    fake_stage(monkeypatch, run)
    with inside(tmp_path):
        status, out, err = call(monkeypatch, capsys, "window")
    assert (status, out) == (130, "") and "Traceback" not in err


CALLS = (
    "simulate --output o",
    "pretrain --dataset d --output o",
    "embed",
    "closed-loop --base b --output o --task t",
    "export --output o",
    "figures",
    "publish owner/name",
    "rollout --arm sigma --output a.parquet",
    "study cells",
    "study record --task t --output o",
    "study data --task t --recording r --output o",
    "study trial --task t --arm a --rate 0.5 --output o",
    "study train --task t --arm a --seed 1 --output o",
    "study play --task t --arm a --output o",
    "study score --task t --output o",
    "study page",
    "benchmark loading",
    "benchmark-page",
    *cli.STAGES,
)


@pytest.mark.parametrize("line", CALLS)
def test_the_options_of_a_command_are_the_arguments_that_its_module_takes(line, project, monkeypatch, capsys):
    def import_module(name: str):
        source = ast.parse((ROOT / name.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
        function = next(node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == "run")
        taken = function.args
        needed = {word.arg for word, value in zip(taken.kwonlyargs, taken.kw_defaults, strict=True) if value is None}

        def run(**arguments):
            assert needed <= set(arguments) <= {word.arg for word in taken.args + taken.kwonlyargs}
            return "done"

        return type("Module", (), {"run": staticmethod(run)})

    monkeypatch.setattr(dispatch, "import_module", import_module)
    with inside(project):
        assert call(monkeypatch, capsys, *line.split()) == (0, "done\n", "")
