"""Where a base lies: the one in the package, a folder, or the Hub at a pinned commit."""

import importlib.resources
import re
from pathlib import Path

from sigma.shared.errors import SigmaError
from sigma.shared.hub import snapshot
from sigma.shared.sources import HUB_ID, advice, expanded, find_commit

EMBEDDED = "embedded"
PATTERNS = ("*.json", "*.safetensors", "*.model")


def resolve_base(source: str, revision: str | None, *, verify: bool = False, download: bool = True) -> Path:
    """The folder of a base: ``embedded`` (shipped in the package), a local folder, or a Hub id at a pinned commit.

    ``verify`` compares every file of a snapshot with the digest in the Hub's listing, which is needed once; without
    ``download`` the cache has to hold the snapshot, and the Hub is not asked.

    Raises:
        SigmaError: the folder is not there, the revision is no 40-hex commit, or the Hub does not give it.
    """
    folder = (
        Path(str(importlib.resources.files("sigma"))) / "embedded" / "base" if source == EMBEDDED else expanded(source)
    )
    if source == EMBEDDED or folder.is_dir():
        if revision:
            raise SigmaError(
                f"the base {source!r} is not a Hub id, so it has no revision; found {revision!r}; legal: null"
            )
        if not (folder / "config.json").is_file():
            raise SigmaError(f"{folder / 'config.json'}: not found; a base is a LeRobot policy folder")
        return folder
    if not HUB_ID.fullmatch(source):
        hint = advice(source, "model")
        raise SigmaError(f"{source}: no such folder, and not a Hub id of the form owner/name{hint}")
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise SigmaError(
            f"the Hub base {source} needs a revision of 40 hex digits (a commit), found {revision!r}; "
            f"`{find_commit(source, 'model')}` prints it{advice(source, 'model')}"
        )
    return snapshot(source, revision, "model", patterns=PATTERNS, verify=verify, download=download)
