"""Pinned snapshots of Hub repositories: complete, with verified digests, and with one-line errors.

Over plain HTTP, huggingface_hub compares only a file's size, so a proxy or a mirror could serve other content. Here
every file is compared with the digest in the commit's listing, which huggingface_hub keeps in its cache: its own
``verify_repo_checksums`` would need a connection. Finished files stay in the cache, so an interrupted download
continues with the next file, and a complete snapshot needs no request.
"""

import errno
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
def hub_errors(place: str, repository: str, kind: Kind, *, online: bool = True) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one line that begins with ``place`` and says what to do.

    ``online`` says whether the Hub may be asked; otherwise only the cache is read.
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
        hint = ", and the Hub cannot be reached" if online else "; fetch it again (sigma fetch)"
        reason = f"it is not whole in the cache {constants.HF_HUB_CACHE}{hint}"
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = f"; set {TOKEN} to one that may do this" if status in (401, 403) else "; try again later"
        reason = f"the Hub answered {status} ({_line(error)}){advice}"
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # hf_xet raises RuntimeError for every fault
        reason = _line(error) or type(error).__name__
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
        verify: compare every file with the digest in the commit's listing; needed only when it is fetched.
        download: whether the Hub may be asked; if not, a file that the cache lacks is an error.

    Raises:
        SigmaError: no such repository or commit, no access, no connection, no space, or a file whose digest is wrong;
            that file is then removed from the cache.
    """
    from huggingface_hub import snapshot_download

    place = f"{repository}@{revision}"
    with hub_errors(place, repository, kind, online=download):
        folder = Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=None if patterns is None else list(patterns),
                local_files_only=not download,
            )
        )
    if verify:
        _verify(folder, repository, revision, kind)
    return folder


def newest_commit(repository: str, kind: Kind, patterns: Sequence[str]) -> str:
    """The present commit of a repository's ``main``; without a connection, the commit when it was last asked for.

    Afterwards the files of ``patterns`` are in the cache. Raises :class:`SigmaError` as :func:`snapshot` does.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(repository, repository, kind):
        # The cache remembers the commit of a branch, and names the folder of a snapshot by its commit.
        return Path(snapshot_download(repository, repo_type=kind, allow_patterns=list(patterns))).name


def _verify(folder: Path, repository: str, revision: str, kind: Kind) -> None:
    """Compare each file of a snapshot with the digest that the Hub names; a wrong file is removed and refused."""
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
        expected, actual = named_digest(entry), content_digest(file, entry)
        if actual != expected:
            blob = file.resolve()
            file.unlink()
            blob.unlink(missing_ok=True)
            raise SigmaError(
                f"{repository}@{revision}: {entry.path}: its content has the digest {actual[:12]}, the Hub names "
                f"{expected[:12]}; it was taken out of the cache, fetch again"
            )


def named_digest(entry: "RepoFile") -> str:
    """The digest of a file in the Hub's listing: SHA-256 of an LFS file, Git's SHA-1 of any other."""
    return entry.lfs.sha256 if entry.lfs is not None else entry.blob_id


def content_digest(file: Path, entry: "RepoFile") -> str:
    """The digest of a file's content, of the kind that :func:`named_digest` gives for it."""
    from huggingface_hub.utils.sha import git_hash

    return digest_file(file) if entry.lfs is not None else git_hash(file.read_bytes())
