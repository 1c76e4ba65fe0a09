"""The tree's one rule: an import points to the left in ``LAYERS``, and no modules import each other in a circle."""

from graphlib import CycleError, TopologicalSorter

import pytest

from tests.imports import ROOT, imports

# Each group may import the groups before it and itself. Training and simulation stand side by side: neither imports the
# other.
LAYERS = (
    {"shared"},
    {"parameters"},
    {"compute"},
    {"data"},
    {"policy"},
    {"training", "simulation"},
    {"evaluation"},
    {"report"},
    {"commands"},
    {"studies"},
    {"tools"},
    {"cli"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "sigma").rglob("*.py"))


def group(file: str) -> str | None:
    """The folder of ``sigma/`` that a module lies in; None for the package's own two files."""
    parts = file.split("/")
    return parts[1] if len(parts) > 2 else None


def points_left(importer: str, imported: str) -> bool:
    """Whether the rule allows this import."""
    if importer == "sigma/__main__.py":
        return group(imported) in {"cli", None}
    if None in (own := group(importer), other := group(imported)):
        return imported == "sigma/__init__.py"
    return own == other or RANK[other] < RANK[own]


def test_every_folder_has_its_place():
    assert {group(file) for file in MODULES} - {None} == set(RANK)
    assert {file for file in MODULES if group(file) is None} == {"sigma/__init__.py", "sigma/__main__.py"}


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("sigma/data/shards.py", "sigma/shared/files.py", True),
        ("sigma/data/shards.py", "sigma/policy/pi05/base.py", False),
        ("sigma/training/loop.py", "sigma/simulation/env.py", False),
        ("sigma/training/loop.py", "sigma/training/losses.py", True),
        ("sigma/__main__.py", "sigma/commands/fetch.py", False),
    ],
)
def test_the_rule_itself(importer, imported, allowed):
    assert points_left(importer, imported) is allowed


def test_every_import_points_left():
    wrong = [
        f"{file} imports {imported}"
        for file in MODULES
        for imported in imports(file, types=True)
        if not points_left(file, imported)
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    # A package file hands on names of its folder, and LeRobot finds a policy's parts by name: neither is an import.
    def real(file: str) -> set[str]:
        return {other for other in imports(file, types=True) if other != file and not other.endswith("__init__.py")}

    graph = {file: real(file) for file in MODULES if "/configuration_" not in file}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_stage_is_a_file_of_commands_and_nothing_else_is():
    from sigma.cli.app import STAGES

    files = {path.stem for path in (ROOT / "sigma/commands").glob("*.py")} - {"__init__"}
    assert files == set(STAGES)


def test_no_file_is_longer_than_300_lines():
    long = {file: count for file in MODULES if (count := len((ROOT / file).read_text().splitlines())) > 300}
    assert not long
