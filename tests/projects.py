"""Projects of their own with the tracked files as they are here, run through DVC as a user runs it."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.imports import ROOT


def environment() -> dict[str, str]:
    """That of a user's shell: the environment's own python first on PATH, nothing of this test run's places."""
    ours = os.environ | {"PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}", "SIGMA_DEVICE": "cpu"}
    return {name: value for name, value in ours.items() if name not in ("DVC_ROOT", "GIT_DIR", "SIGMA_SCRATCH")}


def run(folder: Path, *command: str, fails: bool = False, printed: bool = False) -> str:
    """Output of a command in ``folder``; ``printed`` leaves out what went to standard error."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, output[-4000:]
    return done.stdout if printed else output


def change_parameters(folder: Path, changes: Mapping[str, Any]) -> None:
    """Alter ``params.yaml`` at any depth; its comments stay."""
    yaml = YAML()
    file = folder / "params.yaml"
    parameters = yaml.load(file.read_text(encoding="utf-8"))

    def update(node: Any, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping) and isinstance(node[key], Mapping):
                update(node[key], value)
            else:
                node[key] = value

    update(parameters, changes)
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(parameters, stream)


def make_project(folder: Path, changes: Mapping[str, Any]) -> Path:
    """A committed repository without further pipelines and without results, with ``changes`` to the parameters."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("stages/", "metrics/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    change_parameters(folder, changes)
    run(folder, "git", "init", "-q")
    run(folder, "git", "config", "user.email", "test@example.org")
    run(folder, "git", "config", "user.name", "test")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "start")
    return folder
