"""``sigma_env``: settings of one machine, such as tokens and folders, that belong in no tracked file."""

import os
from io import StringIO
from pathlib import Path

from sigma.shared.errors import SigmaError


def environment_file() -> Path:
    """``sigma_env`` of this folder, or of the project where this folder is a copy that DVC made for an experiment.

    Git ignores the file, so such a copy has none, unless the user put one there.
    """
    here = Path("sigma_env")
    project = next((folder.parent for folder in Path.cwd().parents if folder.name == ".dvc"), None)
    return here if here.is_file() or project is None else project / here


def read_environment(path: Path) -> None:
    """Take KEY=VALUE lines into the environment; what is set there already wins, and an empty value sets nothing.

    Raises :class:`SigmaError`, which names the line, where one is something else.
    """
    if not path.is_file():
        return
    from dotenv.parser import parse_stream

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SigmaError(f"{path}: not readable ({error})") from None
    # Line by line: over a whole file the parser would let a quoted value run on, and count blank lines to the next key.
    for number, line in enumerate(lines, start=1):
        for binding in parse_stream(StringIO(line)):
            if binding.error or (binding.key is not None and not _is_setting(binding.key, binding.value)):
                raise SigmaError(f"{path}: line {number}: expected KEY=VALUE")
            if binding.key and binding.value:
                os.environ.setdefault(binding.key, binding.value)


def _is_setting(key: str, value: str | None) -> bool:
    """Whether the operating system can hold this setting under a name that a shell can read."""
    return key.isidentifier() and value is not None and "\0" not in value
