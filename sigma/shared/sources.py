"""Where a user's dataset or base lies: folders as people write them, and what to write instead of what is neither a
folder nor a Hub id."""

import os
import re
from pathlib import Path

from sigma.shared.hub import PAGES, Kind

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ADDRESS = re.compile(
    rf"(?:(?:https?://)?(?:www\.)?(?:huggingface|hf)\.co/(?:datasets/)?|hf://(?:datasets/)?|datasets/)"
    rf"({HUB_ID.pattern})(?:/.*)?"
)
_UNSET = re.compile(r"\$\{?(\w+)\}?")


def expanded(source: str) -> Path:
    """The path that ``source`` names, with ~ and $NAME as a shell reads them."""
    return Path(os.path.expandvars(source)).expanduser()


def find_commit(repository: str, kind: Kind) -> str:
    """The command that prints the newest commit of a Hub repository."""
    return f"git ls-remote {PAGES[kind]}{repository} main"


def advice(source: str, kind: Kind) -> str:
    """What to write in place of a ``source`` that is no folder here and no Hub id; empty where nothing is said."""
    if address := _ADDRESS.fullmatch(source):
        repository = address.group(1)
        return f"; write the Hub id {repository}, and as revision what `{find_commit(repository, kind)}` prints"
    folder = expanded(source)
    if unset := _UNSET.search(str(folder)):
        return f"; the variable {unset.group(1)} is not set"
    if not folder.is_absolute() and "/.dvc/tmp/" in f"{Path.cwd()}/":
        return "; DVC runs this in a copy of the project, where only its tracked files lie: write an absolute path"
    return f" ({folder})" if str(folder) != source else ""
