"""The project that faults are injected into: every stage has run, and everything it reads lies inside it."""

import shutil
from pathlib import Path

from tests.worlds import World, inside


def finish(trained: World, dataset: Path, folder: Path) -> Path:
    """Write a finished project into ``folder``: the trained world with its report, its sources beside it."""
    from sigma.commands import audit, report
    from sigma.parameters import read_parameters

    for name in ("data", "models"):
        shutil.copytree(trained.root / name, folder / name)
    for name in ("base", "recorded"):
        shutil.copytree(trained.root / name, folder / name)
    shutil.copytree(dataset, folder / "data/dataset")
    world = World(folder)
    world.configure({"fetch": {"dataset": {"source": "recorded"}, "base": {"source": "base"}}})
    record = folder / "data/base.json"
    # The record of a base names where it was found; everything else holds digests alone.
    record.write_text(record.read_text().replace(str((trained.root / "base").resolve()), "base"))
    with inside(folder):
        parameters = read_parameters()
        audit.run(parameters)
        report.run(parameters)
    return folder
