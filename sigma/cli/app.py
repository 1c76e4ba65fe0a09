"""The command line: one command for each stage and tool, each imported only when it runs."""

import sys
from typing import NoReturn

import typer

from sigma.cli.dispatch import run_module
from sigma.cli.environment import environment_file, read_environment
from sigma.cli.guard import guard
from sigma.cli.help import Panels
from sigma.cli.studies import studies
from sigma.cli.tools import tools
from sigma.shared.errors import SigmaError

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


def _add_stage(name: str, text: str) -> None:
    @app.command(name, help=text, rich_help_panel="Stages")
    def command() -> None:
        from sigma.parameters import read_parameters

        run_module(f"sigma.commands.{name}", {"parameters": read_parameters()}, usage=name)


for _name, _text in STAGES.items():
    _add_stage(_name, _text)
app.add_typer(tools)
app.add_typer(studies)


def _fail(message: str) -> NoReturn:
    """Print one line on standard error, in which nothing steers the terminal, and exit with status 1."""
    line = " ".join(message.split())
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
    print(f"sigma: error: {shown.removeprefix('sigma: error: ')}", file=sys.stderr)
    raise SystemExit(1) from None


def main() -> None:
    """Run the command line; a fault of the user's ends in one line and status 1."""
    try:
        read_environment(environment_file())
        with guard(sys.argv[1:], STAGES):
            app()
    except SigmaError as error:
        _fail(str(error))
    except OSError as error:  # a file or a device failed where no function expects it
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        print("sigma: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
