"""The list of arms: each is legal, changes what it names and nothing else, and has the learning rate of its trials."""

from pathlib import Path

import pytest

from sigma.parameters import read_parameters
from sigma.parameters.schema import PARAMS_FILE, read_yaml
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json
from sigma.studies.ablation import rates
from sigma.studies.ablation.arms import (
    PARAMS,
    AblationParameters,
    arm_parameters,
    check_seed,
    choose_rates,
    override,
    read_ablation,
    read_rate,
    select_arm,
)
from tests.worlds import ROOT

SHIPPED = read_ablation(ROOT / PARAMS)
PIPELINE = read_yaml(ROOT / "stages/ablation/dvc.yaml")["stages"]


def flat(data: dict, prefix: str = "") -> dict:
    """Nested keys as dotted ones."""
    found = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def parameters(name: str, *, seed: int = 0, rate: float = 1.0) -> dict:
    arm = arm_parameters(ROOT / PARAMS, name, SHIPPED.arms[name], seed=seed, rate=rate, root=ROOT / PARAMS_FILE)
    return flat(arm.model_dump())


@pytest.mark.parametrize("name", SHIPPED.arms)
def test_a_shipped_arm_differs_from_the_root_parameters_in_its_overrides_and_seed_alone(name):
    root = flat(read_parameters(ROOT / PARAMS_FILE).model_dump())
    found = parameters(name, seed=2)
    assert found["train.seed"] == 2
    changed = {key for key, value in root.items() if key != "train.seed" and found[key] != value}
    overrides = SHIPPED.arms[name].overrides
    # An override may repeat what the root has now: plain LoRA's loss is π0.5's own whatever Sigma's is.
    assert changed <= set(overrides) and {key: found[key] for key in overrides} == overrides
    assert bool(changed) == (name != "sigma")


def test_each_part_of_sigma_has_an_arm_without_it_and_the_claims_are_about_three():
    branches = parameters("sigma")["telepathy.branches"]
    explanatory = {f"without_{part}" for part in (*branches, "film", "recall", "traf", "tsac")} | {
        "memory_cleared",
        "tau_constant",
    }
    assert SHIPPED.confirmatory == ["sigma", "plain_lora", "told_motion"]
    assert set(SHIPPED.arms) == {*SHIPPED.confirmatory, *explanatory, "full_finetune"}
    rate_of = {name: SHIPPED.arms[name].rate_of for name in (*explanatory, "full_finetune")}
    assert rate_of == dict.fromkeys(explanatory, "sigma") | {"full_finetune": "plain_lora"}
    assert SHIPPED.trials.seed not in SHIPPED.seeds
    for branch in branches:
        left = parameters(f"without_{branch}")["telepathy.branches"]
        assert left == [name for name in branches if name != branch]


def test_the_pipeline_runs_the_arms_and_trials_of_the_parameters():
    assert PIPELINE["arm"]["matrix"] == {"arm": "${ablation.trained}", "seed": "${ablation.seeds}"}
    assert PIPELINE["trial"]["matrix"] == {"arm": "${ablation.tuned}", "rate": "${ablation.trials.rates}"}


def test_plain_lora_trains_as_long_as_sigma_by_the_bases_own_loss():
    plain, sigma = parameters("plain_lora"), parameters("sigma")
    assert plain["train.steps"] == sigma["train.steps"]
    assert [plain[f"loss.{span}"] for span in ("vec", "chk", "trj")] == [0, 0, 1] and plain["loss.traf.top_k"] == 0


def test_both_learning_rates_are_multiplied():
    plain, double = parameters("sigma"), parameters("sigma", rate=2.0)
    moved = {key for key in plain if plain[key] != double[key]}
    assert moved == {"train.learning_rate", "train.lora_learning_rate"}
    assert all(double[key] == 2 * plain[key] for key in moved)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"telepathy.fillm": False}, r"arms\.x: overrides: 'telepathy\.fillm' is no key of params\.yaml"),
        ({"telepathy.film.gain": 1}, r"'telepathy\.film\.gain' is no key"),
        ({"film": False}, r"'film' is no key"),
        ({"telepathy.film": 3}, r"arms\.x: params\.yaml: telepathy\.film: .*found 3"),
        ({"train.learning_rate": "fast"}, r"train\.learning_rate: .*'fast'"),
    ],
)
def test_an_override_that_is_no_parameter_or_not_legal_is_refused_by_name(overrides, message):
    arm = SHIPPED.arms["sigma"].model_copy(update={"overrides": overrides})
    with pytest.raises(SigmaError, match=message):
        arm_parameters(PARAMS, "x", arm, seed=0, rate=1.0, root=ROOT / PARAMS_FILE)


def test_overriding_leaves_the_given_parameters_alone():
    data = {"a": {"b": 1, "c": {"d": 2}}}
    assert override(data, {"a.c.d": 3}, "here") == {"a": {"b": 1, "c": {"d": 3}}}
    assert data == {"a": {"b": 1, "c": {"d": 2}}}


def test_an_arm_or_a_seed_that_is_not_listed_is_told_the_legal_ones():
    with pytest.raises(SigmaError, match=r"no arm 'sigmma'; legal: sigma, plain_lora, told_motion"):
        select_arm(SHIPPED, "sigmma")
    with pytest.raises(SigmaError, match=r"no seed 3; legal: 0, 1, 2"):
        check_seed(SHIPPED, 3)


BAD = {
    "rate_of": ({"arms": {"a": {"kind": "sigma", "rate_of": "b", "overrides": {}}}}, r"arms\.a\.rate_of: found 'b'"),
    "trained": ({"trained": []}, r"trained: found \[\]; legal: each of the arms a once"),
    "kind": ({"arms": {"a": {"kind": "mlp", "rate_of": "a", "overrides": {}}}}, "'sigma', 'lora' or 'full'"),
    "seeds": ({"seeds": [0, 0]}, r"ablation\.seeds: values must be distinct, found"),
    "rates": ({"trials": {"rates": [1.0, 0.0], "seed": 3}}, r"ablation\.trials\.rates\.1: .* greater than 0, found"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_list_of_arms_that_does_not_hold_together_is_refused(tmp_path, name):
    from ruamel.yaml import YAML

    changes, message = BAD[name]
    section = {"seeds": [0], "trials": {"rates": [1.0], "seed": 3}}
    section |= {"trained": ["a"], "tuned": ["a"], "arms": {"a": {"kind": "sigma", "rate_of": "a", "overrides": {}}}}
    with open(tmp_path / "params.yaml", "w") as file:
        YAML(typ="safe").dump({"ablation": section | changes}, file)
    with pytest.raises(SigmaError, match=message):
        read_ablation(tmp_path / "params.yaml")


def trials(folder: Path, errors: dict[str, dict[float, float]]) -> Path:
    for arm, by_rate in errors.items():
        for rate, error in by_rate.items():
            write_json(folder / f"{arm}-{rate:g}.json", {"arm": arm, "rate": rate, "validation": error})
    return folder


def two_arms() -> AblationParameters:
    arms = {name: SHIPPED.arms[name] for name in ("sigma", "plain_lora", "without_film")}
    trials = SHIPPED.trials.model_copy(update={"rates": [0.5, 1.0, 2.0]})
    return SHIPPED.model_copy(update={"arms": arms, "trials": trials})


def test_each_arm_gets_the_rate_of_its_smallest_validation_error_and_ties_the_smaller(tmp_path):
    errors = {"sigma": {0.5: 0.3, 1.0: 0.2, 2.0: 0.1}, "plain_lora": {0.5: 0.4, 1.0: 0.2, 2.0: 0.2}}
    folder = trials(tmp_path, errors | {"told_motion": {0.5: 0.0}})
    assert choose_rates(two_arms(), folder) == {"sigma": 2.0, "plain_lora": 1.0}
    (folder / "plain_lora-0.5.json").unlink()
    with pytest.raises(SigmaError, match=r"no trial of arm plain_lora at rate 0\.5"):
        choose_rates(two_arms(), folder)
    write_json(folder / "plain_lora-again.json", {"arm": "plain_lora", "rate": 1.0, "validation": 0.0})
    with pytest.raises(SigmaError, match="a second trial of arm plain_lora at rate 1"):
        choose_rates(two_arms(), folder)
    write_json(folder / "plain_lora-again.json", {"arm": "plain_lora"})
    with pytest.raises(SigmaError, match=r"plain_lora-again\.json: key 'rate' is missing; run `sigma trial`"):
        choose_rates(two_arms(), folder)


def test_the_command_writes_what_an_arm_reads(tmp_path):
    tried = SHIPPED.trials.rates
    assert 1.0 in tried and len(tried) > 1
    errors = {name: {rate: 0.2 + abs(rate - 1.0) for rate in tried} for name in SHIPPED.confirmatory}
    errors["plain_lora"][tried[0]] = 0.1
    line = rates.run(params=ROOT / PARAMS, trials=trials(tmp_path / "trials", errors), output=tmp_path / "rates.json")
    assert f"plain_lora {tried[0]:g}" in line and read_json(tmp_path / "rates.json")["sigma"] == 1.0
    assert read_rate(tmp_path / "rates.json", SHIPPED.arms["full_finetune"]) == tried[0] != 1.0
    assert read_rate(tmp_path / "rates.json", SHIPPED.arms["without_film"]) == 1.0


@pytest.mark.parametrize("content", [{}, {"sigma": True}, {"sigma": "1"}, {"sigma": -1.0}, []])
def test_rates_that_are_missing_or_no_numbers_are_refused(tmp_path, content):
    with pytest.raises(SigmaError, match=r"rates\.json: not found; run the stage that writes it"):
        read_rate(tmp_path / "rates.json", SHIPPED.arms["sigma"])
    write_json(tmp_path / "rates.json", content)
    with pytest.raises(
        SigmaError,
        match=r"rates\.json: .*(expected|is missing).*; run `dvc repro stages/ablation",
    ):
        read_rate(tmp_path / "rates.json", SHIPPED.arms["sigma"])
