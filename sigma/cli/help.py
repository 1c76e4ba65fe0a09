"""The list of commands in a help text."""

from typing import Any

from typer.core import TyperGroup


class Panels(TyperGroup):
    """List commands under the headings of their panels, as plain text.

    Typer's own panels draw boxes with rich, whose import takes several times as long as the command line itself.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            panel = getattr(command, "rich_help_panel", None)
            heading = panel if isinstance(panel, str) else "Commands"
            panels.setdefault(heading, []).append((name, command.get_short_help_str(limit=200)))
        for heading, commands in panels.items():
            with formatter.section(heading):
                formatter.write_dl(commands)
