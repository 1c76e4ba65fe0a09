"""The list of commands in a help text."""

from typer.core import TyperGroup


class Panels(TyperGroup):
    """Lists commands under the headings of their panels as plain text: drawing boxes would import several times as much
    as the command line itself."""

    def format_commands(self, ctx, formatter) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            panel = command.rich_help_panel if isinstance(command.rich_help_panel, str) else "Commands"
            panels.setdefault(panel, []).append((name, command.get_short_help_str(limit=200)))
        for title, commands in panels.items():
            with formatter.section(title):
                formatter.write_dl(commands)
