"""``sigma profile``: shipped settings of ``params.yaml``, listed, shown, compared and written.

The profile ``embedded`` is the ``params.yaml`` that ships with the package. Every other one is a file of
``sigma/profiles/``: it names its parent under ``extends``, and what differs from it.

A wheel holds a copy of ``params.yaml`` among its profiles. A checkout holds none: there ``embedded`` is ``params.yaml``
as last committed, so that it does not follow what is edited in the file; where git has no such commit, it is the file
as it is.
"""

import importlib.resources
import io
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sigma.parameters import read_parameters
from sigma.parameters.schema import PARAMS_FILE, parse_yaml, read_yaml
from sigma.shared.errors import SigmaError

DEFAULT = "embedded"
_HUB = ("dataset", "base")
# Mappings whose keys are features, cameras or checks, not parameters.
_FREE_KEYS = ("fetch.dataset.keys", "window.cameras", "audit.limits")


def _package() -> Path:
    return Path(str(importlib.resources.files("sigma")))


def names() -> list[str]:
    """The shipped profiles, the default first."""
    files = {file.stem for file in (_package() / "profiles").glob("*.yaml")}
    return [DEFAULT, *sorted(files - {DEFAULT})]


def default_values(package: Path) -> dict[str, Any]:
    """Every parameter as it is shipped with the package in this folder: its own copy, else the checkout's."""
    copy = package / "profiles" / f"{DEFAULT}.yaml"
    if copy.is_file():
        return read_yaml(copy)
    file = package.parent / PARAMS_FILE
    committed = _committed(file)
    return read_yaml(file) if committed is None else parse_yaml(committed, Path(f"{file}, as last committed"))


def _committed(file: Path) -> str | None:
    """The file's text in the checkout's last commit; None without git, a commit or the file in it."""
    command = ["git", "-C", str(file.parent), "show", f"HEAD:./{file.name}"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def load(name: str) -> dict[str, Any]:
    """Every parameter of a profile; raises :class:`SigmaError` for an unknown name."""
    if name not in names():
        raise SigmaError(f"profile {name!r} does not exist; legal: {', '.join(names())}")
    if name == DEFAULT:
        return default_values(_package())
    differing = read_yaml(_package() / "profiles" / f"{name}.yaml")
    values = load(differing.pop("extends"))
    known = dict(leaves(values))
    for key, value in leaves(differing):
        if key not in known:
            raise SigmaError(f"profile {name}: {key}: no such parameter")
        _set(values, key, value)
    return values


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every parameter by its dotted name."""
    for key, value in section.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in _FREE_KEYS:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def _set(values: Any, name: str, value: Any) -> None:
    """Change the parameter of this dotted name in place; a loaded YAML document keeps its comments."""
    *sections, key = name.split(".")
    for section in sections:
        values = values[section]
    values[key] = value


def differences(name: str, file: Path = PARAMS_FILE) -> list[tuple[str, Any, Any]]:
    """Parameters whose value in ``file`` is not the profile's: (name, in the file, in the profile)."""
    here, there = dict(leaves(read_yaml(file))), dict(leaves(load(name)))
    missing = object()  # None is a value
    return [
        (key, here.get(key), there.get(key))
        for key in there | here
        if here.get(key, missing) != there.get(key, missing)
    ]


def _yaml() -> Any:
    """A YAML reader and writer that keeps comments, quotes and the way the shipped file is laid out."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def text_of(values: Mapping[str, Any]) -> str:
    """YAML of plain values."""
    buffer = io.StringIO()
    _yaml().dump(values, buffer)
    return buffer.getvalue()


def _latest(repository: str, kind: str) -> str:
    """The commit that a Hub repository's main branch is at now."""
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = HfApi().repo_info(repository, repo_type="dataset" if kind == "dataset" else "model").sha
    except (HfHubHTTPError, HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
    else:
        if commit is not None:
            return commit
        reason = "the Hub names none"
    raise SigmaError(
        f"{repository}: its commit cannot be read from the Hub ({reason}); name it: --{kind}-revision <40 hex digits>"
    )


def pin(values: dict[str, Any], revisions: Mapping[str, str | None]) -> dict[str, str]:
    """Give every Hub id in ``fetch`` a commit: the profile's, the one asked for, else the Hub's latest.

    Returns what was pinned here, by ``dataset`` and ``base``; ``values`` is changed.
    """
    pinned = {}
    for kind in _HUB:
        origin, wanted = values["fetch"][kind], revisions.get(kind)
        is_hub = "/" in origin["source"] and not Path(origin["source"]).exists()
        if wanted is not None and not is_hub:
            raise SigmaError(f"--{kind}-revision: the profile's {kind} {origin['source']!r} is no Hub id; leave it out")
        if is_hub and (wanted or origin["revision"] is None):
            origin["revision"] = pinned[kind] = wanted or _latest(origin["source"], kind)
    return pinned


def _on_one_line(value: Any) -> Any:
    """A mapping in flow style: written over several lines it would take the next key's comment with it."""
    from ruamel.yaml.comments import CommentedMap

    if not isinstance(value, Mapping):
        return value
    line = CommentedMap(value)
    line.fa.set_flow_style()
    return line


def write_values(file: Path, changed: Mapping[str, Any]) -> None:
    """Set these parameters, by dotted name, in ``file``; its comments stay."""
    from sigma.shared.files import atomic_file

    yaml = _yaml()
    document = yaml.load(file.read_text(encoding="utf-8"))
    for key, value in changed.items():
        _set(document, key, _on_one_line(value))
    with atomic_file(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yaml.dump(document, stream)


def use(name: str, file: Path, revisions: Mapping[str, str | None]) -> str:
    """Write a profile's values into ``file``, comments kept, after checking them all; returns one line."""
    values = load(name)
    old = dict(leaves(read_yaml(file)))
    pinned = pin(values, revisions)
    read_parameters(Path(f"profile {name}"), values)
    new = dict(leaves(values))
    unshared = set(new) ^ set(old)
    if unshared:
        raise SigmaError(
            f"{file}: {min(unshared)} stands in this file or in the profile, not in both; take the shipped params.yaml"
        )
    changed = {key: value for key, value in new.items() if old[key] != value}
    write_values(file, changed)
    pins = "".join(f"; {kind} pinned to {commit[:12]}" for kind, commit in pinned.items())
    return f"profile: {name} written into {file}, {len(changed)} values changed{pins}"
