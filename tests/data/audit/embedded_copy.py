"""A copy of the embedded dataset whose files a test may alter, and the words for a fault that is planted in it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tests.imports import ROOT

EMBEDDED = ROOT / "sigma/embedded/dataset"
STATE, ACTION = "observation.state", "action"
UP, WRIST = "observation.images.up", "observation.images.wrist"
# The episode that a fault is planted in (77 frames), an earlier one of as many frames, the last one, and the longest.
HERE, OTHER, LAST, LONGEST, FRAMES = 72, 70, 199, 89, 77
WHOLE = -1

Table = dict[str, np.ndarray]


@dataclass(frozen=True)
class Fault:
    """A fault in words, how it is planted, and what is found: the worst finding's check, severity and episode, and the
    other checks that have a finding.
    """

    words: str
    plant: Callable[[Path], None]
    check: str
    severity: str = "fail"
    episode: int = HERE
    also: tuple[str, ...] = ()


def copy_embedded(folder: Path, films: bool = False) -> Path:
    """A copy whose tables may be altered; the videos too with ``films``, else they are the shipped ones."""
    for part in ("data", "meta"):
        shutil.copytree(EMBEDDED / part, folder / part)
    if films:
        shutil.copytree(EMBEDDED / "videos", folder / "videos")
    else:
        (folder / "videos").symlink_to(EMBEDDED / "videos")
    return folder


def table_file(folder: Path) -> Path:
    """The only table of rows."""
    return next((folder / "data").rglob("*.parquet"))


def edit_rows(change: Callable[[pd.DataFrame], pd.DataFrame], folder: Path) -> None:
    change(pd.read_parquet(table_file(folder))).to_parquet(table_file(folder))


def edit_episodes(change: Callable[[pd.DataFrame], pd.DataFrame], folder: Path) -> None:
    path = next((folder / "meta" / "episodes").rglob("*.parquet"))
    change(pd.read_parquet(path)).to_parquet(path)


def edit_json(name: str, change: Callable[[dict], None], folder: Path) -> None:
    path = folder / "meta" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_values(change: Callable[[Table], None], folder: Path, episode: int = HERE) -> None:
    """Let ``change`` alter the columns of an episode in place; state and action are [n, 6], and those of OTHER are
    given by ``other_state`` and ``other_action``.
    """

    def alter(table: pd.DataFrame) -> pd.DataFrame:
        columns = {name: np.stack(table[name].to_numpy()) for name in (STATE, ACTION)}
        columns |= {name: table[name].to_numpy().copy() for name in table if name not in columns}
        rows, other = (np.flatnonzero(table.episode_index == index) for index in (episode, OTHER))
        part = {name: values[rows] for name, values in columns.items()}
        part |= {f"other_{name}": columns[name][other] for name in (STATE, ACTION)}
        change(part)
        for name in columns:
            columns[name][rows] = part[name]
        return table.assign(**{name: list(one) if one.ndim > 1 else one for name, one in columns.items()})

    edit_rows(alter, folder)
