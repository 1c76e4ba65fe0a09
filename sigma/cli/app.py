"""The command line: one command for each stage and tool, each imported only when it runs."""

import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import typer

from sigma.cli.guard import guard
from sigma.cli.help import Panels
from sigma.cli.studies import further
from sigma.cli.tools import tools
from sigma.shared.errors import SigmaError
from sigma.shared.logs import record_usage

app = typer.Typer(
    name="sigma",
    cls=Panels,
    rich_markup_mode=None,
    help="Telepathy residuals on a frozen π0.5 policy, as a DVC pipeline of cached stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STAGES = {
    "fetch": "Copy the dataset into data/ and pin the base policy.",
    "audit": "Look for faults in the dataset, episode by episode.",
    "window": "Cut episodes into windows and write the shards that every later stage reads.",
    "baseline": "Run the frozen base on every window; keep its actions and its prefix features.",
    "finetune": "Train LoRA and the telepathy heads.",
    "evaluate": "Predict residuals with Sigma and with the control on the same windows.",
    "report": "Blend, score, check and draw.",
}


def environment_file() -> Path:
    """``sigma_env`` of this folder; in DVC's copy for an experiment, where ignored files are not, the project's own."""
    here = Path("sigma_env")
    project = next((folder.parent for folder in Path.cwd().parents if folder.name == ".dvc"), None)
    return here if here.is_file() or project is None else project / here


def read_environment(path: Path) -> None:
    """Take KEY=VALUE lines of a file like ``sigma_env`` into the environment; what is set there already wins."""
    if not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SigmaError(f"{path}: not readable ({error})") from None
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, separator, value = text.partition("=")
        if not separator or not key.strip().isidentifier() or "\0" in value:
            raise SigmaError(f"{path}: line {number}: expected KEY=VALUE")
        if value.strip():
            os.environ.setdefault(key.strip(), value.strip())


def _stage(name: str) -> None:
    def command() -> None:
        from sigma.parameters import read_parameters

        started = time.perf_counter()
        parameters = read_parameters()
        line = import_module(f"sigma.commands.{name}").run(parameters)
        record_usage(name, time.perf_counter() - started)
        typer.echo(line)

    app.command(name=name, help=STAGES[name], rich_help_panel="Stages")(command)


for _name in STAGES:
    _stage(_name)


app.add_typer(tools)
app.add_typer(further)


def _fail(message: str) -> NoReturn:
    """One line on standard error, in which nothing steers the terminal, and status 1."""
    words = " ".join(message.split())
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in words)
    print(f"sigma: error: {shown}", file=sys.stderr)
    raise SystemExit(1) from None


def main() -> None:
    """Run the command line; a fault of the user's ends in one line and status 1."""
    try:
        read_environment(environment_file())
        with guard(sys.argv[1:], STAGES):
            app()
    except SigmaError as error:
        _fail(str(error))
    except OSError as error:  # of a file or a device that nobody expected to fail
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        print("sigma: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
