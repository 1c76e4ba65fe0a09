"""How a command reaches the module that does its work: its options stand once, in a function's signature."""

import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import typer

from sigma.shared.logs import record_usage

Options = Callable[..., dict[str, Any] | None]


def run_module(module: str, arguments: dict[str, Any], usage: str | None = None) -> None:
    """Import ``module``, call its ``run(**arguments)`` and print the line that it returns.

    With ``usage``, time and memory are logged under this name, in which the arguments may stand as in
    :meth:`str.format`.
    """
    started = time.perf_counter()
    line = import_module(module).run(**arguments)
    if usage is not None:
        record_usage(usage.format(**arguments), time.perf_counter() - started)
    typer.echo(line)


def command(app: typer.Typer, panel: str, module: str, usage: str | None = None) -> Callable[[Options], Options]:
    """Make the decorated function a command of ``app``, listed under ``panel``, that runs ``module``.

    The function's signature declares the options, under the names of the arguments of the module's ``run``; its
    docstring is the help. Where an argument is not simply what was typed, the function returns it, by name: it then
    replaces or joins the options.
    """

    def register(options: Options) -> Options:
        @wraps(options)
        def callback(**arguments: Any) -> None:
            run_module(module, arguments | (options(**arguments) or {}), usage)

        app.command(rich_help_panel=panel)(callback)
        return options

    return register
