"""Pinned snapshots of Hub repositories: complete, of the content that the Hub names, and refused in one line.

Over plain HTTP huggingface_hub compares a file's size only, so that a proxy or a mirror may serve another content; here
every file is compared with the digest of the commit's listing. A finished file stays in the cache, so that an
interrupted download goes on with the next one; a snapshot that is there is taken without a request.
"""

import errno
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

Kind = Literal["model", "dataset"]
PAGES = {"model": "https://huggingface.co/", "dataset": "https://huggingface.co/datasets/"}
TOKEN = "HF_TOKEN (environment or sigma_env)"


@contextmanager
def hub_errors(place: str, repository: str, kind: Kind, *, asked: bool = True) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one line that begins with ``place`` and says what to do.

    ``asked`` says whether the Hub may be asked, or the cache alone.
    """
    from httpx import HTTPError
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
        return
    except GatedRepoError:
        reason = f"the {kind} is gated: accept its licence at {PAGES[kind]}{repository} and set {TOKEN}"
    except RepositoryNotFoundError:
        reason = f"the Hub shows no such {kind}: check its id, and set {TOKEN} where it is private"
    except RevisionNotFoundError:
        reason = "the Hub has no such commit; legal: 40 hex digits of one"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        hint = ", and the Hub cannot be reached" if asked else "; fetch it again (sigma fetch)"
        reason = f"it is not whole in the cache {constants.HF_HUB_CACHE}{hint}"
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = f"; set {TOKEN} to one that may do this" if status in (401, 403) else "; try again later"
        reason = f"the Hub answered {status} ({_line(error)}){advice}"
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # a RuntimeError is hf_xet's, whatever failed
        reason = f"{_line(error) or type(error).__name__}"
        if getattr(error, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error):
            reason = f"no space is left for the cache {constants.HF_HUB_CACHE}; free some, or set HF_HOME elsewhere"
        elif isinstance(error, HTTPError | RuntimeError):
            reason = f"the connection failed ({reason}); run it again, finished files are kept"
    raise SigmaError(f"{place}: {reason}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def snapshot(
    repository: str,
    revision: str,
    kind: Kind,
    *,
    patterns: Sequence[str] | None = None,
    verify: bool = True,
    download: bool = True,
) -> Path:
    """The folder of a repository at a commit, downloaded where the cache lacks it.

    Args:
        revision: 40 hex digits of a commit.
        patterns: which files, as in ``snapshot_download``; all by default.
        verify: compare every file with the digest in the commit's listing; needed once, when it is fetched.
        download: ask the Hub at all; without, what the cache lacks is an error.

    Raises:
        SigmaError: no such repository or commit, no access, no connection, no space, or a file of another content; that
            file is then taken out of the cache.
    """
    from huggingface_hub import snapshot_download

    place = f"{repository}@{revision}"
    chosen = list(patterns) if patterns is not None else None
    with hub_errors(place, repository, kind, asked=download):
        folder = Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=chosen,
                local_files_only=not download,
            )
        )
    if verify:
        _verify(folder, repository, revision, kind)
    return folder


def newest_commit(repository: str, kind: Kind, patterns: Sequence[str]) -> str:
    """The commit that ``main`` of a repository is at now, or, without a connection, when it was last asked for.

    The files of ``patterns`` are in the cache afterwards. Raises :class:`SigmaError` as :func:`snapshot` does.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(repository, repository, kind):
        # The cache remembers the commit of a branch, and names the folder of a snapshot by its commit.
        return Path(snapshot_download(repository, repo_type=kind, allow_patterns=list(patterns))).name


def _verify(folder: Path, repository: str, revision: str, kind: Kind) -> None:
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        listing = get_cached_repo_tree(repository, repo_type=kind, revision=revision)
    except CachedRepoTreeNotFoundError:
        return  # cached by an older client without the listing: there is nothing to compare with
    for entry in listing:
        file = folder / entry.path
        if not file.is_file():
            continue  # not among the patterns
        wanted, found = named_digest(entry), content_digest(file, entry)
        if found != wanted:
            blob = file.resolve()
            file.unlink()
            blob.unlink(missing_ok=True)
            raise SigmaError(
                f"{repository}@{revision}: {entry.path}: its content has the digest {found[:12]}, the Hub names "
                f"{wanted[:12]}; it was taken out of the cache, fetch again"
            )


def named_digest(entry: "RepoFile") -> str:
    """The digest by which the Hub's listing names a file: SHA-256 of a large one, Git's SHA-1 of a small one."""
    return entry.lfs.sha256 if entry.lfs is not None else entry.blob_id


def content_digest(file: Path, entry: "RepoFile") -> str:
    """The digest of a file's content in the form that :func:`named_digest` has for it."""
    if entry.lfs is not None:
        return digest_file(file)
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode())
    digest.update(file.read_bytes())
    return digest.hexdigest()
