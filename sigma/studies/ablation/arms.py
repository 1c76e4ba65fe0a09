"""The arms of the ablation: what each changes in ``params.yaml``, by which seeds, and at which learning rate.

An arm is a list of overrides of the root parameters, so that everything it does not name is equal for all arms.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from sigma.parameters import Parameters, read_parameters, read_sections
from sigma.parameters.schema import PARAMS_FILE, Section, read_yaml
from sigma.shared.errors import SigmaError
from sigma.shared.records import NUMBER, POSITIVE, read_record
from sigma.studies.arm_folder import ArmKind

PARAMS = Path("stages/ablation/params.yaml")
Seed = Annotated[int, Field(ge=0)]


class Arm(Section):
    kind: ArmKind
    rate_of: str
    overrides: dict[str, Any]


def _distinct[Value](values: list[Value]) -> list[Value]:
    if len(set(values)) != len(values):
        raise ValueError("values must be distinct")
    return values


class Trials(Section):
    rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(_distinct)]
    seed: Seed


class AblationParameters(Section):
    """``ablation`` in stages/ablation/params.yaml."""

    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)]
    trained: list[str]
    tuned: list[str]
    trials: Trials
    arms: dict[str, Arm] = Field(min_length=1)

    @model_validator(mode="after")
    def _rates_are_chosen(self) -> "AblationParameters":
        for name, arm in self.arms.items():
            if arm.rate_of not in self.confirmatory:
                raise ValueError(
                    f"arms.{name}.rate_of: found {arm.rate_of!r}; legal: an arm with trials of its own, "
                    f"{', '.join(self.confirmatory)}"
                )
        for key, arms in {"trained": list(self.arms), "tuned": self.confirmatory}.items():
            if sorted(getattr(self, key)) != sorted(arms):
                raise ValueError(f"{key}: found {getattr(self, key)}; legal: each of the arms {', '.join(arms)} once")
        return self

    @property
    def confirmatory(self) -> list[str]:
        """The arms that the table of outcomes compares with Sigma, and Sigma: each has as many learning-rate trials."""
        return [name for name, arm in self.arms.items() if arm.rate_of == name]


class AblationFile(Section):
    ablation: AblationParameters


def read_ablation(params: Path = PARAMS) -> AblationParameters:
    """The section ``ablation``; other sections of the file are not read."""
    return read_sections(AblationFile, params, others=True).ablation


def select_arm(ablation: AblationParameters, name: str, params: Path = PARAMS) -> Arm:
    """The arm of this name; raises :class:`SigmaError` that lists the legal ones."""
    if name not in ablation.arms:
        raise SigmaError(f"{params}: ablation.arms: no arm {name!r}; legal: {', '.join(ablation.arms)}")
    return ablation.arms[name]


def check_seed(ablation: AblationParameters, seed: int, params: Path = PARAMS) -> None:
    """Raise :class:`SigmaError` where this training seed is not one of the ablation's."""
    if seed not in ablation.seeds:
        legal = ", ".join(map(str, ablation.seeds))
        raise SigmaError(f"{params}: ablation.seeds: no seed {seed}; legal: {legal}")


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


def arm_parameters(
    params: Path, name: str, arm: Arm, *, seed: int, rate: float, root: Path = PARAMS_FILE
) -> Parameters:
    """Every section of the root parameters as this arm has them, validated as a whole.

    Both learning rates are multiplied by ``rate``; ``train.seed`` is the training seed.
    """
    source = f"{params}: ablation.arms.{name}"
    read_parameters(root)
    label = Path(f"{source}: {root.name}")
    data = override(read_yaml(root), arm.overrides, source)
    read_parameters(label, data)
    rates = {f"train.{key}": data["train"][key] * rate for key in ("learning_rate", "lora_learning_rate")}
    return read_parameters(label, override(data, rates | {"train.seed": seed}, source))


def read_rate(path: Path, arm: Arm) -> float:
    """The multiplier that the trials chose for this arm; ``path`` is what ``sigma rates`` wrote."""
    rates = read_record(path, {arm.rate_of: POSITIVE}, "run `dvc repro stages/ablation/dvc.yaml:rates`")
    return float(rates[arm.rate_of])


def choose_rates(ablation: AblationParameters, folder: Path) -> dict[str, float]:
    """For each arm with trials, the multiplier with the smallest validation error; ties go to the smaller one.

    ``folder`` holds one JSON file for each trial. Raises :class:`SigmaError` where a trial is missing, occurs twice or
    cannot be read.
    """
    errors: dict[tuple[str, float], float] = {}
    for file in sorted(folder.glob("*.json")):
        trial = read_record(file, {"arm": str, "rate": NUMBER, "validation": NUMBER}, "run `sigma trial`")
        if (trial["arm"], trial["rate"]) in errors:
            raise SigmaError(f"{file}: a second trial of arm {trial['arm']} at rate {trial['rate']:g}; remove one")
        errors[trial["arm"], trial["rate"]] = trial["validation"]
    chosen = {}
    for name in ablation.confirmatory:
        missing = [rate for rate in ablation.trials.rates if (name, rate) not in errors]
        if missing:
            raise SigmaError(f"{folder}: no trial of arm {name} at rate {missing[0]:g}; run `sigma trial`")
        chosen[name] = min((errors[name, rate], rate) for rate in ablation.trials.rates)[1]
    return chosen
