"""The list of tasks and arms: each is legal, changes what it names and nothing else, and has its trials' rate."""

from pathlib import Path

import pytest

from sigma.parameters import read_parameters
from sigma.parameters.schema import PARAMS_FILE, read_yaml
from sigma.policy.control.robot_observation import check_words
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json
from sigma.simulation.tasks import BASE_TASKS, TASKS
from sigma.studies.study.cells import cells, rates
from sigma.studies.study.cells.parameters import (
    PARAMS,
    Arm,
    arm_values,
    cell_parameters,
    check_cell,
    check_seed,
    override,
    read_study,
    task_values,
)
from sigma.studies.study.cells.workspace import CELLS, TRIALS, cell_file
from tests.studies.study.projects import TASK, settle, write_study
from tests.worlds import ROOT, World, inside

SHIPPED = read_study(ROOT / PARAMS)
ROOT_PARAMETERS = ROOT / PARAMS_FILE


def flat(data: dict, prefix: str = "") -> dict:
    """Nested keys as dotted ones."""
    found = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def values(task: str, arm: str) -> dict:
    return flat(arm_values(SHIPPED, task, arm, ROOT / PARAMS, ROOT_PARAMETERS))


@pytest.mark.parametrize(("task", "arm"), SHIPPED.cells())
def test_a_cell_differs_from_the_root_parameters_in_its_overrides_alone(task, arm):
    root, found = flat(read_yaml(ROOT_PARAMETERS)), values(task, arm)
    overrides = SHIPPED.tasks[task].overrides | SHIPPED.arms[arm].overrides
    # An override may repeat what the root has now: plain LoRA's loss is π0.5's own whatever Sigma's is.
    assert {key for key, value in root.items() if found[key] != value} <= set(overrides)
    assert {key: found[key] for key in overrides} == overrides


def test_each_part_of_sigma_has_an_arm_without_it_or_with_it_and_every_arm_is_trained():
    """With it, where the part is off by default."""
    sigma = values(TASK, "sigma")
    branches = sigma["telepathy.branches"]
    parts = {name: name in branches for name in ("vector", "chunk", "trajectory", "condition")}
    parts |= {"film": sigma["telepathy.film"], "traf": sigma["loss.traf.top_k"] > 0}
    parts |= {"recall": sigma["loss.recall"] > 0, "tsac": sigma["loss.tsac.memory_text"] > 0}
    named = {f"{'without' if on else 'with'}_{part}" for part, on in parts.items()}
    assert set(SHIPPED.parts.arms) == named | {"memory_cleared", "tau_constant"}
    assert {arm for _, arm in SHIPPED.cells()} == set(SHIPPED.arms)
    for branch in branches:
        left = values("put_back", f"without_{branch}")["telepathy.branches"]
        assert left == [name for name in branches if name != branch]
    assert set(values("put_back", "with_condition")["telepathy.branches"]) == {"condition", *branches}


def test_plain_lora_trains_as_long_as_sigma_by_the_bases_own_loss():
    plain, sigma = values(TASK, "plain_lora"), values(TASK, "sigma")
    assert plain["train.steps"] == sigma["train.steps"]
    assert [plain[f"loss.{span}"] for span in ("vec", "chk", "trj")] == [0, 0, 1] and plain["loss.traf.top_k"] == 0


def test_the_shipped_tasks_and_settings_are_legal_for_the_embedded_base():
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.description import describe_base

    base = load_base(describe_base("embedded", None))
    assert SHIPPED.tasks[TASK].base_tasks == list(BASE_TASKS)
    for name, task in SHIPPED.tasks.items():
        for setting in SHIPPED.all_settings(name).values():
            check_words(base.prompter, TASKS[task.task].texts(setting))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"telepathy.fillm": False}, r"arms\.sigma: overrides: 'telepathy\.fillm' is no key of params\.yaml"),
        ({"telepathy.film.gain": 1}, r"'telepathy\.film\.gain' is no key"),
        ({"film": False}, r"'film' is no key"),
        ({"telepathy.film": 3}, r"arms\.sigma: params\.yaml: telepathy\.film: .*found 3"),
        ({"train.learning_rate": "fast"}, r"train\.learning_rate: .*'fast'"),
    ],
)
def test_an_override_that_is_no_parameter_or_not_legal_is_refused_by_name(overrides, message):
    study = SHIPPED.model_copy(update={"arms": {"sigma": Arm(kind="sigma", rate_of="sigma", overrides=overrides)}})
    with pytest.raises(SigmaError, match=message):
        arm_values(study, TASK, "sigma", PARAMS, ROOT_PARAMETERS)


def test_an_override_of_a_task_that_is_no_parameter_is_refused_by_name():
    task = SHIPPED.tasks[TASK].model_copy(update={"overrides": {"window.horizont": 1}})
    with pytest.raises(SigmaError, match=r"study\.tasks\.pick_place: overrides: 'window\.horizont' is no key"):
        task_values(SHIPPED.model_copy(update={"tasks": {TASK: task}}), TASK, PARAMS, ROOT_PARAMETERS)


def test_overriding_leaves_the_given_parameters_alone():
    data = {"a": {"b": 1, "c": {"d": 2}}}
    assert override(data, {"a.c.d": 3}, "here") == {"a": {"b": 1, "c": {"d": 3}}}
    assert data == {"a": {"b": 1, "c": {"d": 2}}}


def test_a_task_an_arm_or_a_seed_that_is_not_listed_is_told_the_legal_ones():
    with pytest.raises(SigmaError, match=r"study\.tasks: no 'pick'; legal: pick_place, "):
        check_cell(SHIPPED, "pick", "sigma", PARAMS)
    with pytest.raises(SigmaError, match=r"study\.arms: no 'sigmma'; legal: sigma, plain_lora"):
        check_cell(SHIPPED, TASK, "sigmma", PARAMS)
    with pytest.raises(SigmaError, match="with_film is not trained on pick_place; legal: sigma, plain_lora"):
        check_cell(SHIPPED, TASK, "with_film", PARAMS)
    with pytest.raises(SigmaError, match=r"no seed 3; legal: 0, 1, 2"):
        check_seed(SHIPPED, 3, PARAMS)


BAD = {
    "rate_of": ({"arms": {"sigma": {"rate_of": "b"}}}, r"arms\.sigma\.rate_of: found 'b'; legal: sigma, plain_lora"),
    "listed": ({"listed": ["pick_place"]}, r"listed: found \['pick_place'\]; legal: each of the tasks"),
    "group": ({"parts": {"arms": ["sigma", "sigmma"]}}, r"parts\.arms: found 'sigmma'"),
    "kind": ({"arms": {"sigma": {"kind": "mlp"}}}, "'sigma', 'lora', 'frames' or 'full'"),
    "seeds": ({"seeds": [0, 0]}, r"study\.seeds: values must be distinct, found"),
    "trials": ({"trials": {"seed": 2}}, r"trials\.seed: found 2; legal: none of the training seeds \[0, 1, 2\]"),
    "rates": ({"trials": {"rates": [1.0, 0.0]}}, r"study\.trials\.rates\.1: .* greater than 0, found"),
    "trials_of": ({"tasks": {"pick_place": {"trials_of": "put"}}}, r"tasks\.pick_place\.trials_of: found 'put'"),
    "plain": ({"play": {"settings": {"plain": {}}}}, "'plain' is no harder setting"),
    "base": ({"tasks": {"pick_place": {"base_tasks": ["pick_place"]}}}, "its own task is no base task"),
    "one episode": ({"play": {"episodes": 1}}, r"study\.play\.episodes: .*≥ 2"),
    "setting": ({"play": {"settings": {"wind": {"speed": 1}}}}, r"settings\.wind\.speed: unknown key"),
    "wording": ({"play": {"settings": {"told": {"wording": "new"}}}}, r"settings\.told\.wording: .*'held_out'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_list_that_does_not_hold_together_is_refused(own: World, name):
    changes, message = BAD[name]
    with pytest.raises(SigmaError, match=message):
        read_study(write_study(own, **changes))


def test_a_cell_has_the_rate_of_its_smallest_validation_error_and_ties_the_smaller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    errors = dict.fromkeys(SHIPPED.trials.arms, (0.3, 0.2, 0.1, 0.4)) | {"plain_lora": (0.4, 0.2, 0.2, 0.3)}
    for arm, row in errors.items():
        for rate, error in zip(SHIPPED.trials.rates, row, strict=True):
            write_json(TRIALS / f"pick_place/{arm}-{rate:g}.json", {"validation": error})
    lines = rates.run(params=ROOT / PARAMS, output=Path("rates")).splitlines()
    assert lines[2] == "  plain_lora on pick_place: 1 (validation 0.5: 0.4000, 1: 0.2000, 2: 0.2000, 4: 0.3000)"
    cells = ("put_back/sigma", "put_back/with_film", "put_back_50/plain_lora")
    # A part takes Sigma's rate, and every task that of the one whose trials choose for it.
    assert [read_json(Path(f"rates/{cell}.json")) for cell in cells] == [{"rate": 2.0}, {"rate": 2.0}, {"rate": 1.0}]
    (TRIALS / "pick_place/plain_lora-0.5.json").unlink()
    with pytest.raises(SigmaError, match=r"pick_place/plain_lora-0\.5\.json: not found; run the stage that writes it"):
        rates.run(params=ROOT / PARAMS, output=Path("rates"))


def test_a_cells_file_changes_with_its_own_parameters_alone(own: World):
    settle(own)
    files = {file: file.read_bytes() for file in (own.root / CELLS).rglob("*.yaml")}
    assert len(files) == len(SHIPPED.cells()) + 2 * len(SHIPPED.tasks)
    settle(own, arms={"sigma": {"overrides": {"telepathy.width": 8}}})
    changed = {file for file, before in files.items() if file.read_bytes() != before}
    assert changed == {own.root / cell_file(task, arm) for task, arm in SHIPPED.cells() if arm == "sigma"}
    own.configure({"loss": {"tau": 0.7}})
    with inside(own.root):
        cells.run(params=PARAMS, output=CELLS)
        found = cell_parameters(cell_file(TASK, "sigma"), seed=5, rate=2.0)
    assert (found.loss.tau, found.train.seed) == (0.7, 5)
    plain = read_parameters(own.root / PARAMS_FILE).train
    assert (found.train.learning_rate, found.train.lora_learning_rate) == (
        2 * plain.learning_rate,
        2 * plain.lora_learning_rate,
    )
