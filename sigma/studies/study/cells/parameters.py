"""What the study records, trains and plays: ``stages/study/params.yaml``.

A *cell* is an arm on a task. Tasks and arms are overrides of the root parameters, so that everything that they do not
name is equal for all.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from sigma.parameters import Parameters, read_parameters, read_sections
from sigma.parameters.schema import PARAMS_FILE, Section, read_yaml
from sigma.shared.errors import SigmaError
from sigma.shared.records import NUMBER, read_record
from sigma.simulation.setting import PLAIN, PLAIN_NAME, Setting, SettingName

PARAMS = Path("stages/study/params.yaml")
ArmKind = Literal["sigma", "lora", "frames", "full"]
# Those whose every arm is trained on every task of the group.
GROUPS = ("compared", "parts", "twins", "others")
Count = Annotated[int, Field(ge=1, le=100_000)]
Played = Annotated[int, Field(ge=2, le=100_000)]  # an interval needs two
Seed = Annotated[int, Field(ge=0, le=1_000_000_000)]


def _distinct[Value](values: list[Value]) -> list[Value]:
    if len(set(values)) != len(values):
        raise ValueError("values must be distinct")
    return values


Names = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]


class Group(Section):
    """Every arm of ``arms`` on every task of ``tasks``."""

    tasks: Names
    arms: Names


class Task(Section):
    task: str
    episodes: Count
    replay: int = Field(ge=0, le=100_000)
    trials_of: str
    base_tasks: list[str]
    settings: dict[SettingName, Setting]
    overrides: dict[str, Any]


class Arm(Section):
    kind: ArmKind
    rate_of: str
    overrides: dict[str, Any]


class Recording(Section):
    seed: Seed
    noise: float = Field(ge=0, le=100)


class Trials(Section):
    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(_distinct)]
    seed: Seed
    tasks: Names
    arms: Names


class Play(Section):
    """How arms are played; see the comments in the file."""

    first_seed: Seed
    episodes: Played
    setting_episodes: Played
    base_episodes: Played
    n_action_steps: int = Field(ge=1, le=1024)
    batch: int = Field(ge=1, le=1024)
    settings: dict[SettingName, Setting]


class StudyParameters(Section):
    """``study`` in stages/study/params.yaml."""

    listed: Names
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)]
    recording: Recording
    trials: Trials
    play: Play
    compared: Group
    parts: Group
    twins: Group
    others: Group
    tasks: dict[str, Task] = Field(min_length=1)
    arms: dict[str, Arm] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_exist(self) -> "StudyParameters":
        named: dict[str, tuple[list[str], Iterable[str]]] = {}
        for name in GROUPS:
            group: Group = getattr(self, name)
            named |= {f"{name}.tasks": (group.tasks, self.tasks), f"{name}.arms": (group.arms, self.arms)}
        for tried in self.trials.tasks:
            named[f"trials.arms, on {tried}"] = (self.trials.arms, self.arms_of(tried))
        for name, arm in self.arms.items():
            named[f"arms.{name}.rate_of"] = ([arm.rate_of], self.trials.arms)
        for name, task in self.tasks.items():
            named[f"tasks.{name}.trials_of"] = ([task.trials_of], self.trials.tasks)
        for key, (names, legal) in named.items():
            for name in names:
                if name not in legal:
                    raise ValueError(f"{key}: found {name!r}; legal: {', '.join(legal)}")
        if self.trials.seed in self.seeds:
            raise ValueError(f"trials.seed: found {self.trials.seed}; legal: none of the training seeds {self.seeds}")
        if sorted(self.listed) != sorted(self.tasks):
            raise ValueError(f"listed: found {self.listed}; legal: each of the tasks {', '.join(self.tasks)} once")
        for name, task in self.tasks.items():
            if task.replay and not task.base_tasks:
                raise ValueError(f"tasks.{name}.replay: found {task.replay}; legal: 0, as it has no base_tasks")
            if task.task in task.base_tasks or PLAIN_NAME in self.play.settings | task.settings:
                raise ValueError(f"tasks.{name}: its own task is no base task, and {PLAIN_NAME!r} is no harder setting")
        return self

    def all_settings(self, task: str) -> dict[str, Setting]:
        """The settings of a task by name, the plain one first."""
        return {PLAIN_NAME: PLAIN} | self.play.settings | self.tasks[task].settings

    def cells(self) -> list[tuple[str, str]]:
        """Every trained (task, arm), each once."""
        groups = (getattr(self, name) for name in GROUPS)
        return list(dict.fromkeys((task, arm) for group in groups for task in group.tasks for arm in group.arms))

    def arms_of(self, task: str) -> list[str]:
        """The trained arms of a task."""
        return [arm for name, arm in self.cells() if name == task]


class StudyFile(Section):
    study: StudyParameters


def read_study(params: Path = PARAMS) -> StudyParameters:
    """The section ``study``; the whole file is checked."""
    return read_sections(StudyFile, params).study


def find[Value](named: Mapping[str, Value], name: str, key: str, params: Path) -> Value:
    """The value of this name; raises :class:`SigmaError` that lists the legal ones."""
    if name not in named:
        raise SigmaError(f"{params}: study.{key}: no {name!r}; legal: {', '.join(named)}")
    return named[name]


def check_cell(study: StudyParameters, task: str, arm: str, params: Path) -> None:
    """Raise :class:`SigmaError` where this arm is not trained on this task."""
    find(study.tasks, task, "tasks", params)
    find(study.arms, arm, "arms", params)
    if arm not in study.arms_of(task):
        legal = ", ".join(study.arms_of(task)) or "none"
        raise SigmaError(f"{params}: {arm} is not trained on {task}; legal: {legal}")


def check_seed(study: StudyParameters, seed: int, params: Path) -> None:
    """Raise :class:`SigmaError` where this training seed is not one of the study's."""
    if seed not in study.seeds:
        raise SigmaError(f"{params}: study.seeds: no seed {seed}; legal: {', '.join(map(str, study.seeds))}")


def override(data: Mapping[str, Any], changes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A copy of ``data`` with ``changes`` by dotted key; a key that is not there is refused."""
    changed = deepcopy(dict(data))
    for key, value in changes.items():
        *path, last = key.split(".")
        node: Any = changed
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise SigmaError(f"{source}: overrides: {key!r} is no key of {PARAMS_FILE}")
        node[last] = value
    return changed


def task_values(study: StudyParameters, task: str, params: Path, root: Path = PARAMS_FILE) -> dict[str, Any]:
    """The root parameters as this task has them, as plain values that form legal :class:`Parameters`."""
    source = f"{params}: study.tasks.{task}"
    read_parameters(root)
    data = override(read_yaml(root), find(study.tasks, task, "tasks", params).overrides, source)
    read_parameters(Path(f"{source}: {root.name}"), data)
    return data


def arm_values(study: StudyParameters, task: str, name: str, params: Path, root: Path = PARAMS_FILE) -> dict[str, Any]:
    """The root parameters as this arm has them on this task, as plain values that form legal :class:`Parameters`."""
    source = f"{params}: study.arms.{name}"
    data = override(task_values(study, task, params, root), study.arms[name].overrides, source)
    read_parameters(Path(f"{source}: {root.name}"), data)
    return data


def cell_parameters(file: Path, *, seed: int, rate: float, root: Path = PARAMS_FILE) -> Parameters:
    """The root parameters with the sections of a cell's file, as ``sigma study cells`` wrote it.

    Both learning rates are multiplied by ``rate``; ``train.seed`` is the training seed.
    """
    cell = {name: values for name, values in read_yaml(file).items() if name != "kind"}
    rates = {f"train.{key}": cell["train"][key] * rate for key in ("learning_rate", "lora_learning_rate")}
    data = override(read_yaml(root) | cell, rates | {"train.seed": seed}, str(file))
    return read_parameters(Path(f"{file}: {root.name}"), data)


def trial_errors(study: StudyParameters, task: str, arm: str, trials: Path) -> dict[float, float]:
    """The validation error by multiplier, in the trials that choose for this cell. ``trials`` is the folder of all of
    them. Raises :class:`SigmaError` where one is missing."""
    of, judged = study.tasks[task].trials_of, study.arms[arm].rate_of
    form, again = {"validation": NUMBER}, "run `dvc repro stages/study/dvc.yaml`"
    files = {rate: trials / of / f"{judged}-{rate:g}.json" for rate in study.trials.rates}
    return {rate: read_record(file, form, again)["validation"] for rate, file in files.items()}
