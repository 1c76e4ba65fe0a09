"""``metrics/rollout.json`` as the evidence page reads it; the one place that knows the file's keys."""

from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from sigma.shared.records import check_record, read_record

RETENTION = "retention"
SETTING = "/"  # between a task and the name of a harder setting of it
_AGAIN = "run `dvc repro stages/rollout/dvc.yaml`"


class ArmScores(TypedDict):
    """One arm on one task: success in [0, 1] with its 95 % interval, mean progress, decisions a second of its policy
    (the expert has none)."""

    episodes: int
    success: float
    success_lo: float
    success_hi: float
    progress: float
    decisions_per_second: NotRequired[float]


class Paired(TypedDict):
    """Sigma's success minus another arm's on the same episodes, in [−1, 1]; p is McNemar's exact one."""

    difference: float
    low: float
    high: float
    p: float


class TaskScores(TypedDict):
    """Every arm on one task; ``paired`` maps another arm to Sigma's difference from it."""

    arms: dict[str, ArmScores]
    paired: dict[str, Paired]


class Kept(TypedDict):
    """An arm on the mean of the base's own tasks: success minus the frozen base's, in [−1, 1], with its interval."""

    difference: float
    difference_lo: float
    difference_hi: float


class Retention(TypedDict):
    arms: dict[str, Kept]


@dataclass(frozen=True)
class ClosedLoop:
    """Everything that was rolled out: results by task and by harder setting (``TASK/NAME``), and by arm what it kept
    of the base's own tasks, empty where that was not measured."""

    tasks: dict[str, TaskScores]
    settings: dict[str, TaskScores]
    kept: dict[str, Kept]


def read_closed_loop(path: Path) -> ClosedLoop | None:
    """The file's content; None where it does not exist: the closed loop was not run.

    Raises :class:`SigmaError` naming the key where the file is not of this form.
    """
    if not path.is_file():
        return None
    content = read_record(path, {}, _AGAIN)
    form = {name: Retention if name == RETENTION else TaskScores for name in content}
    check_record(content, form, f"{path}: ", _AGAIN)
    kept = content.pop(RETENTION, {"arms": {}})["arms"]
    tasks = {name: scores for name, scores in content.items() if SETTING not in name}
    settings = {name: scores for name, scores in content.items() if SETTING in name}
    return ClosedLoop(tasks, settings, kept)
