"""``metrics/rollout.json`` as the evidence page reads it; the one place that knows the file's keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json

ARMS, PAIRED, RETENTION = "arms", "paired", "retention"
SETTING = "/"  # between a task and the name of a harder setting of it
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ArmResult:
    """One arm on one task: success in [0, 1] with its 95 % interval, mean progress, decisions a second of its policy.

    What the file does not give is None; the expert has no policy.
    """

    success: float
    low: float
    high: float
    progress: float | None
    episodes: int | None
    decisions_per_second: float | None = None


@dataclass(frozen=True)
class Paired:
    """Sigma's success minus another arm's on the same episodes, in [−1, 1]; p is McNemar's exact one.

    ``low`` and ``high`` are None where the file gives no interval.
    """

    difference: float
    low: float | None
    high: float | None
    p: float

    @property
    def won(self) -> bool:
        return self.difference > 0 and self.p < SIGNIFICANT

    @property
    def lost(self) -> bool:
        return self.difference < 0 and self.p < SIGNIFICANT


@dataclass(frozen=True)
class TaskResult:
    """Every arm on one task; ``paired`` maps another arm to Sigma's difference from it."""

    arms: dict[str, ArmResult]
    paired: dict[str, Paired]


@dataclass(frozen=True)
class Kept:
    """An arm on the mean of the base's own tasks: success minus the frozen base's, in [−1, 1], with its interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class ClosedLoop:
    """Everything that was rolled out.

    ``tasks`` maps a task to its results, ``settings`` a harder setting, ``TASK/NAME``, to its; ``kept`` maps an arm to
    what it kept of the base's own tasks, empty where that was not measured.
    """

    tasks: dict[str, TaskResult]
    settings: dict[str, TaskResult]
    kept: dict[str, Kept]


def _task(name: str, value: Mapping[str, Any]) -> TaskResult:
    arms = {
        arm: ArmResult(
            result["success"],
            result["success_lo"],
            result["success_hi"],
            result.get("progress"),
            result.get("episodes"),
            result.get("decisions_per_second"),
        )
        for arm, result in value[ARMS].items()
    }
    paired = {
        arm: Paired(result["difference"], result.get("low"), result.get("high"), result["p"])
        for arm, result in value.get(PAIRED, {}).items()
    }
    for arm in paired:
        if arm not in arms:
            raise SigmaError(f"metrics/rollout.json: {name}.{PAIRED}: {arm} is not among {', '.join(arms)}")
    return TaskResult(arms, paired)


def read_closed_loop(path: Path) -> ClosedLoop | None:
    """The file's content; None where it does not exist: the closed loop was not run.

    Raises :class:`SigmaError` naming the key where the file is not of this form.
    """
    if not Path(path).is_file():
        return None
    again = "run `dvc repro stages/rollout/dvc.yaml`"
    closed_loop = ClosedLoop({}, {}, {})
    for name, value in read_json(path).items():
        if not isinstance(value, Mapping) or ARMS not in value:
            raise SigmaError(f"{path}: {name}.{ARMS} is missing; {again}")
        try:
            if name == RETENTION:
                bounds = ("difference", "difference_lo", "difference_hi")
                closed_loop.kept.update(
                    {arm: Kept(*(item[key] for key in bounds)) for arm, item in value[ARMS].items()}
                )
            else:
                (closed_loop.settings if SETTING in name else closed_loop.tasks)[name] = _task(name, value)
        except (KeyError, TypeError, AttributeError) as error:
            raise SigmaError(f"{path}: {name}: key {error} is missing or of another form; {again}") from None
    return closed_loop
