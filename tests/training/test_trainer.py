"""Training Sigma on the small world: every switch does something, and a killed run ends as if it never was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sigma.commands import finetune
from sigma.policy.model import lora
from sigma.policy.model.model_folder import load_model, read_config
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder
from sigma.studies.ablation.arm_training import new_trainer
from sigma.training.batches import motion_rms
from sigma.training.loop import Phase
from sigma.training.objectives import FlowObjective, ResidualObjective, evaluating
from sigma.training.state import Scratch
from sigma.training.trainer import Trainer
from tests.worlds import ADAPTED, ROOT, World, inside, merge

WINDOWS = 8


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Every test has its own place for checkpoints, as none may find those of another."""
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def products(world: World) -> dict[str, str]:
    """Digests of what finetune writes."""
    return {name: digest_folder(world.root / name) for name in ("models/sigma", "data/training")}


def awake(trainer: Trainer) -> tuple:
    """A model whose zero weights are random numbers, so that everything matters, and its residual phase."""
    model = trainer.build()
    torch.manual_seed(0)
    for parameter in lora.lora_parameters(model.adapted):
        torch.nn.init.normal_(parameter, std=0.1)
    for head in model.heads.residuals.out.values():
        torch.nn.init.normal_(head.weight, std=0.1)
    torch.nn.init.normal_(model.heads.film.modulation.weight, std=0.1)
    adapter = {name: one for name, one in sorted(model.adapted.named_parameters()) if ".lora_" in name}
    return model, trainer._residual_phase(model, adapter)


def step_loss(world: World, *changes, step: int = 3) -> float:
    """The loss of optimizer step 3 of 6, in the middle of the curriculum, with a known table of errors."""
    trainer = world.trainer({"train": {"batch": WINDOWS}}, *changes)
    _, phase = awake(trainer)
    phase.objective.hard.errors = np.arange(len(phase.objective.train), dtype=float)
    torch.manual_seed(1)
    rows = phase.objective.rows(step)
    with torch.no_grad():
        return phase.objective.loss(rows, step, 0, len(rows))[0].item()


SWITCHES = {
    "vec": {"loss": {"vec": 0.5}},
    "chk": {"loss": {"chk": 0.5}},
    "trj": {"loss": {"trj": 0.5}},
    "tau": {"loss": {"tau": 0.5}},
    "tau_band": {"loss": {"tau_band": 0.3}},
    "flow": {"loss": {"flow": 0.5}},
    "traf off": {"loss": {"traf": {"top_k": 0.0}}},
    "traf top_k": {"loss": {"traf": {"top_k": 0.35}}},
    "traf focus": {"loss": {"traf": {"focus": 0.9}}},
    "traf draw": {"loss": {"traf": {"draw": True}}},
    "memory_text": {"loss": {"tsac": {"memory_text": 0.5}}},
    "intent_telepathy": {"loss": {"tsac": {"intent_telepathy": 0.5}}},
    "tsac start": {"loss": {"tsac": {"start": 0.45}}},
    "tsac end": {"loss": {"tsac": {"end": 0.55}}},
    "temperature": {"loss": {"tsac": {"temperature": 1.0}}},
    "bank": {"loss": {"tsac": {"bank": ["close the box"]}}},
    "state_noise": {"train": {"state_noise": 0.5}},
    "train seed": {"train": {"seed": 1}},
    "film": {"telepathy": {"film": False}},
    "memory": {"telepathy": {"memory": "reset"}},
    "factor_source": {"telepathy": {"factor_source": "constant"}},
    "read_base_action": {"telepathy": {"read_base_action": False}},
    "tau_norm": {"telepathy": {"tau_norm": 5.0}},
    "layers": {"telepathy": {"layers": [-1]}},
    "state_tokens": {"telepathy": {"state_tokens": 1}},
    "factor_tokens": {"telepathy": {"factor_tokens": 1}},
    "no factor_tokens": {"telepathy": {"factor_tokens": 0}},
    "head_width": {"telepathy": {"head_width": 32}},
    "alpha": {"lora": {"alpha": 40.0}},
    "dropout": {"lora": {"dropout": 0.5}},
    "projections": {"lora": {"projections": ["q"]}},
}


@pytest.fixture(scope="module")
def plain_loss(prepared) -> float:
    return step_loss(prepared)


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_and_weight_changes_the_loss(prepared, plain_loss, name):
    assert step_loss(prepared, SWITCHES[name]) != plain_loss


def test_the_loss_of_a_step_is_a_function_of_parameters_and_step(prepared, plain_loss):
    assert step_loss(prepared) == plain_loss
    assert step_loss(prepared, step=4) != plain_loss
    assert step_loss(prepared, {"loss": {"traf": {"decay": 0.1}}}) == plain_loss, "decay acts on the table alone"


def trained_weights(world: World, *changes) -> dict[str, torch.Tensor]:
    trainer = world.trainer({"train": {"steps": 3, "select": "last"}}, *changes)
    with Scratch.open(trainer.key()) as scratch:
        model = trainer.run(scratch).model
    named = [*model.heads.named_parameters(), *model.adapted.named_parameters()]
    return {name: one.detach().clone() for name, one in named if "base_layer" not in name}


@pytest.mark.minutes
def test_every_number_of_the_optimisation_changes_the_trained_weights(prepared):
    plain = trained_weights(prepared)
    changes = {
        "learning_rate": 0.01,
        "lora_learning_rate": 0.01,
        "warmup": 0.5,
        "weight_decay": 0.9,
        "clip": 0.01,
        "average": 0.0,
        "batch": 3,
        "accumulation": 2,
        "steps": 4,
        "views": 0,
        "view_shift": 5,
        "view_light": 0.4,
    }
    for name, value in changes.items():
        other = trained_weights(prepared, {"train": {name: value}})
        assert any(not torch.equal(other[key], tensor) for key, tensor in plain.items()), name
    for name, value in {"validate_every": 1, "checkpoint_every": 1}.items():
        other = trained_weights(prepared, {"train": {name: value}})
        assert all(torch.equal(other[key], tensor) for key, tensor in plain.items()), name
    uncached = trained_weights(prepared, {"train": {"cache_vision": False}})
    for key, tensor in plain.items():
        torch.testing.assert_close(uncached[key], tensor, rtol=0, atol=2e-3)


@pytest.mark.minutes
def test_the_flow_phase_follows_its_own_numbers(prepared):
    plain = trained_weights(prepared, ADAPTED)
    trainer = prepared.trainer(ADAPTED)
    model = trainer.build()
    told = set(model.heads.before_pass())
    named = [*model.heads.named_parameters(), *model.adapted.named_parameters()]
    begun = {name: one for name, one in named if "base_layer" not in name}
    assert told < set(plain) and all(not torch.equal(plain[name], begun[name]) for name in told)
    changes = {"flow_steps": 5, "flow_draws": 3, "lora_learning_rate": 0.01, "learning_rate": 0.01}
    for changed in ({"train": {name: value}} for name, value in changes.items()):
        other = trained_weights(prepared, ADAPTED, changed)
        moved = {key for key, tensor in plain.items() if not torch.equal(other[key], tensor)}
        assert any("gemma_expert" in key for key in moved) and moved & told, changed
    held = trained_weights(prepared, ADAPTED, {"loss": {"tau": 0.5}})
    assert any(not torch.equal(held[key], plain[key]) for key in told), "the norm of the factors is held here"
    # Residual training must leave what flow matching has learned as it is.
    other = trained_weights(prepared, ADAPTED, {"train": {"steps": 5}})
    kept = {key for key in plain if ".lora_" in key} | told
    assert all(torch.equal(other[key], plain[key]) for key in kept)
    assert any(not torch.equal(other[key], tensor) for key, tensor in plain.items())


def flow_losses(monkeypatch) -> list[int]:
    """The steps at which a flow phase computes its loss from now on."""
    loss, steps = FlowObjective.loss, []

    def counted(self, rows, step, part, total):
        steps.append(step)
        return loss(self, rows, step, part, total)

    monkeypatch.setattr(FlowObjective, "loss", counted)
    return steps


def finished(world: World, *changes):
    """The result of a whole training, whose state is then removed as the stages do."""
    trainer = world.trainer(ADAPTED, *changes)
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
        scratch.clear()
    return result


def assert_same(one, other) -> None:
    """Equal tensors to the bit, curves and counts."""
    states = [result.model.state_dict() for result in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert [vars(curve) for curve in one.curves] == [vars(curve) for curve in other.curves]
    for name in ("steps", "selected", "validation", "trainable"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.mark.minutes
@pytest.mark.parametrize(
    "later",
    [
        {"loss": {"traf": {"top_k": 0.35}}},
        {"telepathy": {"head_width": 40, "layers": [-1], "read_base_action": False}, "train": {"steps": 3}},
    ],
)
def test_a_finished_flow_phase_serves_trainings_that_differ_in_what_comes_after_it(
    prepared, tmp_path, monkeypatch, place, later
):
    steps = flow_losses(monkeypatch)
    first = finished(prepared)
    assert steps == [0, 1, 2, 3]
    (kept,) = place.rglob("*.pt")
    assert kept.parent.name == "phases"
    reused = finished(prepared, later)
    assert steps == [0, 1, 2, 3], "the flow phase ran again"
    assert list(place.rglob("*.pt")) == [kept]
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "empty"))
    alone = finished(prepared, later)
    assert steps == 2 * [0, 1, 2, 3]
    assert_same(reused, alone)
    name = "heads.residuals.out.vector.weight"
    plain, changed = (result.model.state_dict()[name] for result in (first, alone))
    assert plain.shape != changed.shape or not torch.equal(plain, changed), "the change changes nothing"


@pytest.mark.minutes
def test_a_training_that_reuses_a_flow_phase_may_itself_be_interrupted(prepared, monkeypatch):
    later = {"loss": {"traf": {"top_k": 0.35}}}
    finished(prepared)
    steps = flow_losses(monkeypatch)
    undo = interrupt(monkeypatch, 3)
    trainer = prepared.trainer(ADAPTED, later)
    with Scratch.open(trainer.key()) as scratch, pytest.raises(KeyboardInterrupt):
        trainer.run(scratch)
    undo()
    resumed = steps_taken(monkeypatch)
    result = finished(prepared, later)
    assert resumed == [2, 3, 4, 5] and steps == []
    assert_same(result, finished(prepared, later))


# Trainings that differ in this have no flow phase in common; in what follows they have.
OTHER_FLOW = {
    "seed": {"train": {"seed": 1}},
    "rank": {"lora": {"rank": 3}},
    "alpha": {"lora": {"alpha": 8.0}},
    "flow_steps": {"train": {"flow_steps": 5}},
    "learning_rate": {"train": {"learning_rate": 0.002}},
    "lora_learning_rate": {"train": {"lora_learning_rate": 0.002}},
    "select": {"train": {"select": "last"}},
    "autocast": {"train": {"autocast": "bfloat16"}},
    "tau": {"loss": {"tau": 0.5}},
    "tau_band": {"loss": {"tau_band": 0.3}},
    "tau_norm": {"telepathy": {"tau_norm": 5.0}},
    "factors": {"telepathy": {"factors": 2}},
    "state_tokens": {"telepathy": {"state_tokens": 1}},
    "factor_tokens": {"telepathy": {"factor_tokens": 1}},
    "film": {"telepathy": {"film": False}},
    "memory": {"telepathy": {"memory": "reset"}},
    "factor_source": {"telepathy": {"factor_source": "constant"}},
    "architecture": {"telepathy": {"architecture": "mlp"}},
}
SAME_FLOW = {
    "steps": {"train": {"steps": 5}},
    "head_width": {"telepathy": {"head_width": 40}},
    "layers": {"telepathy": {"layers": [-1]}},
    "read_base_action": {"telepathy": {"read_base_action": False}},
    "vec": {"loss": {"vec": 0.5}},
    "traf": {"loss": {"traf": {"top_k": 0.0}}},
    "tsac": {"loss": {"tsac": {"memory_text": 0.5}}},
}


@pytest.mark.minutes
def test_flow_phases_are_found_by_all_that_they_depend_on_and_by_nothing_else(prepared):
    plain = prepared.trainer(ADAPTED)
    found = {name: prepared.trainer(ADAPTED, change).flow_key() for name, change in OTHER_FLOW.items()}
    assert len({plain.flow_key(), *found.values()}) == len(found) + 1
    begun = plain.build()
    told = {name: one.clone() for name, one in begun.heads.before_pass().items()}
    learned = [one.clone() for one in lora.lora_parameters(begun.adapted)]
    for name, change in SAME_FLOW.items():
        trainer = prepared.trainer(ADAPTED, change)
        assert trainer.flow_key() == plain.flow_key() and trainer.key() != plain.key(), name
        model = trainer.build()
        assert model.heads.before_pass().keys() == told.keys(), name
        assert all(torch.equal(one, told[key]) for key, one in model.heads.before_pass().items()), name
        assert all(torch.equal(*pair) for pair in zip(lora.lora_parameters(model.adapted), learned, strict=True)), name


@pytest.mark.minutes
@pytest.mark.parametrize("name", ["seed", "rank"])
def test_a_flow_phase_of_other_inputs_is_run_anew(prepared, tmp_path, monkeypatch, name):
    steps = flow_losses(monkeypatch)
    finished(prepared)
    found = finished(prepared, OTHER_FLOW[name])
    assert steps == 2 * [0, 1, 2, 3]
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "empty"))
    assert_same(found, finished(prepared, OTHER_FLOW[name]))


@pytest.mark.minutes
def test_a_kept_flow_phase_that_cannot_be_read_is_made_anew(prepared, place, monkeypatch, capsys):
    later = {"loss": {"traf": {"top_k": 0.35}}}
    finished(prepared)
    whole = finished(prepared, later)
    (kept,) = (place / "phases").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    steps = flow_losses(monkeypatch)
    capsys.readouterr()
    anew = finished(prepared, later)
    assert steps == [0, 1, 2, 3] and f"{kept}: this finished phase cannot be read" in capsys.readouterr().err
    assert_same(anew, whole)
    assert_same(finished(prepared, later), whole)
    assert steps == [0, 1, 2, 3], "the phase that was made anew is kept"


def test_motion_is_measured_on_the_train_windows_before_training(prepared):
    for change in ({}, ADAPTED):
        trainer = prepared.trainer(change)
        expected = motion_rms(trainer.material, np.flatnonzero(trainer.material.split == "train"))
        assert torch.equal(trainer.build().heads.path.motion_encoder.rms, expected)
    everything = motion_rms(trainer.material, np.arange(len(trainer.material.split)))
    assert not torch.equal(everything, expected), "this world cannot tell the windows apart"


@pytest.mark.minutes
def test_the_memory_of_errors_decides_what_is_hard(prepared):
    every = {"train": {"batch": 30, "steps": 6, "learning_rate": 0.05}}
    plain = trained_weights(prepared, every)
    for changes in ({"decay": 0.0}, {"top_k": 0.0}, {"draw": True}):
        other = trained_weights(prepared, every, {"loss": {"traf": changes}})
        assert any(not torch.equal(other[key], tensor) for key, tensor in plain.items()), changes


def test_the_sizes_of_the_heads_are_those_of_the_parameters(prepared):
    changes = {"width": 24, "factors": 5, "factor_dim": 2, "state_tokens": 3, "factor_tokens": 4, "head_width": 40}
    heads = prepared.trainer({"telepathy": changes}).build().heads
    assert heads.path.memory_cell.hidden_size == 24 and heads.path.factor_network[2].out_features == 10
    assert heads.path.motion_encoder.mlp[0].in_features == 3 * 6
    assert (heads.state_encoder.tokens, heads.factor_tokens.tokens) == (3, 4)
    assert heads.residuals.trunk[0].out_features == 40 and heads.residuals.mix.project.out_features == 24
    heads = prepared.trainer({"telepathy": {"state_tokens": 0, "factor_tokens": 0}}).build().heads
    assert heads.state_encoder is None and heads.factor_tokens is None


@pytest.mark.parametrize("extra", [{}, {"loss": {"flow": 0.5}}])
def test_accumulation_equals_the_large_batch_noise_included(prepared, extra):
    gradients, weights = [], []
    for batch, accumulation in ((8, 1), (2, 4)):
        settings = {"batch": batch, "accumulation": accumulation, "clip": 1e9, "weight_decay": 0.0, "warmup": 0.0}
        _, phase = awake(prepared.trainer({"train": settings | {"state_noise": 0.1}}, extra))
        phase.optimizer.zero_grad = lambda **_: None
        phase._optimize()
        gradients.append({name: one.grad.clone() for name, one in phase.named.items() if one.grad is not None})
        weights.append({name: one.detach().clone() for name, one in phase.named.items()})
        np.testing.assert_array_equal(np.isnan(phase.objective.hard.errors).sum(), len(phase.objective.train) - 8)
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-4 * max(scale, 1e-3))
        # Adam divides by the gradient's size: where that is rounding noise, so is the step.
        sure = expected.abs() > 1e-3 * max(scale, 1e-3)
        torch.testing.assert_close(weights[1][name][sure], weights[0][name][sure], rtol=0, atol=2e-5)


def test_checkpointing_trains_on_from_step_to_step_as_without_it(prepared):
    losses = []
    for on in (False, True):
        _, phase = awake(prepared.trainer({"train": {"gradient_checkpointing": on, "accumulation": 2}}))
        losses.append([])
        for phase.step in range(3):
            losses[-1].append(phase._optimize())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("name", ["residual", "flow"])
def test_the_loss_of_a_step_does_not_depend_on_where_its_rows_are_cut(prepared, name):
    trainer = prepared.trainer({"train": {"state_noise": 0.1}, "loss": {"flow": 0.5}})
    model, phase = awake(trainer)
    objective = phase.objective
    if name == "flow":
        objective = FlowObjective(model, trainer.material, trainer.train, trainer.parts)
    rows = objective.rows(1)
    cuts = ((0, 3), (3, 4), (4, len(rows)))
    with torch.no_grad():
        whole, logs = objective.loss(rows, 1, 0, len(rows))
        cut = [objective.loss(rows[start:stop], 1, start, len(rows)) for start, stop in cuts]
    assert sum(loss.item() for loss, _ in cut) == pytest.approx(whole.item(), rel=1e-5)
    for term, value in logs.items():
        assert sum(terms[term] for _, terms in cut) == pytest.approx(value, rel=1e-4, abs=1e-7), term


def test_hard_windows_are_drawn_only_once_all_are_known(prepared):
    trainer = prepared.trainer({"loss": {"traf": {"draw": True, "focus": 0.9}}, "train": {"batch": 10}})
    _, phase = awake(trainer)
    objective, windows = phase.objective, len(phase.objective.train)
    assert windows == 30
    seen = np.concatenate([objective.rows(step) for step in range(3)])
    assert sorted(seen) == list(range(windows)) and (objective.weights == 1).all()
    objective.hard.errors = np.arange(windows, dtype=float)
    drawn = np.concatenate([objective.rows(step) for step in range(30)])
    assert 0.8 < np.isin(drawn, np.flatnonzero(objective.hard.hard())).mean() < 1
    assert (objective.weights == 1).all(), "what is drawn more often is not weighted too"


def test_validation_knows_no_dropout_and_ends_in_training_mode(prepared):
    model, phase = awake(prepared.trainer({"lora": {"dropout": 0.9}}))
    objective = phase.objective
    assert isinstance(objective, ResidualObjective)
    values = {objective.validate(batch) for batch in (4, 4)}
    assert len(values) == 1
    assert objective.validate(2) == pytest.approx(values.pop(), rel=1e-5)
    assert model.training
    with evaluating(model):
        assert not model.training and not torch.is_grad_enabled()


def test_validation_is_the_error_of_the_executed_plan(prepared):
    model, phase = awake(prepared.trainer())
    material, objective, squares = prepared.material(), phase.objective, []
    model.eval()
    for window in objective.validation:
        rows = np.array([window])
        with torch.no_grad():
            residuals = model(objective.batches.observation(rows), material.base_action(rows)).residuals
        plan = material.columns["base_action"][window].copy()
        plan[0] += residuals["vector"][0, 0].numpy()
        plan[1:4] += residuals["chunk"][0, 1:].numpy()
        plan[4:] += residuals["trajectory"][0, 4:].numpy()
        valid = material.columns["valid"][window]
        squares.append(((plan - material.columns["action"][window])[valid] ** 2).mean())
    assert objective.validate(4) == pytest.approx(np.mean(squares), rel=1e-4)


@pytest.mark.minutes
def test_training_lowers_the_validation_error_below_the_bases(prepared):
    changes = {"train": {"steps": 80, "batch": 8, "validate_every": 20, "learning_rate": 0.003, "average": 0.9}}
    trainer = prepared.trainer(changes)
    before = awake_less_validation(prepared)
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
    assert result.validation < 0.7 * before
    assert [curve.name for curve in result.curves] == ["residual"] and len(result.curves[0].train) == 80


def awake_less_validation(world: World) -> float:
    """The validation error of the base itself: Sigma before its first step."""
    trainer = world.trainer()
    return trainer._residual_phase(trainer.build(), {}).objective.validate(4)


def test_each_trained_projection_carries_its_part(prepared):
    trainer = prepared.trainer({"train": {"steps": 10, "lora_learning_rate": 0.02, "average": 0.0, "select": "last"}})
    with Scratch.open(trainer.key()) as scratch:
        model = trainer.run(scratch).model
    objective = validation_objective(prepared, model, trainer.material)
    whole, names = objective.validate(64), list(lora.lora_layers(model.adapted))
    assert {name.rsplit(".", 1)[1] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"} and len(names) == 8
    for name in names:
        with lora.disabled(model.adapted, only=[name]):
            assert abs(objective.validate(64) - whole) > 1e-6 * whole, name
    assert objective.validate(64) == whole


@pytest.mark.minutes
def test_each_projection_of_both_towers_carries_its_part_of_the_flow(trained_adapted):
    world, material = trained_adapted, trained_adapted.material()
    folder = world.root / "models/sigma"
    model = load_model(material.base.policy, folder, read_config(folder), folder / "sigma_telepathy_heads.safetensors")
    train = world.configure(ADAPTED).train
    parts = {name: np.flatnonzero(material.split == name) for name in ("train", "validation")}
    objective = FlowObjective(model, material, train, parts)
    whole = objective.validate(64)
    silent = []
    for name in lora.lora_layers(model.adapted):
        with lora.disabled(model.adapted, only=[name]):
            if objective.validate(64) == whole:
                silent.append(name)
    # The last layer's queries and outputs feed nothing that the action expert reads, so flow matching leaves them.
    last = "paligemma.model.language_model.layers.1.self_attn."
    assert sorted(name.split("paligemma_with_expert.")[1] for name in silent) == [f"{last}o_proj", f"{last}q_proj"]


def validation_objective(world: World, model, material) -> ResidualObjective:
    parameters = world.configure()
    parts = {name: np.flatnonzero(material.split == name) for name in ("train", "validation")}
    head_base, bank = material.base_action, torch.zeros(1, 24)
    return ResidualObjective(model, material, parameters.train, parts, parameters.loss, head_base, bank, 1.0)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(own, trained):
    own.run("finetune")
    assert products(own) == products(trained)
    own.run("finetune", changes={"train": {"seed": 1}})
    assert products(own)["models/sigma"] != products(trained)["models/sigma"]


def test_a_finished_training_leaves_no_state_behind_but_its_flow_phase(own, place):
    def left() -> list[str]:
        files = [file for file in place.rglob("*") if file.is_file() and file.suffix != ".lock"]
        return [file.parent.name for file in files]

    own.run("finetune")
    assert left() == []
    own.run("finetune", changes=ADAPTED)
    assert left() == ["phases"]


def interrupt(monkeypatch, after: int) -> Callable[[], None]:
    """Stop training at the start of optimizer step ``after``, counted over all phases; returns what undoes it."""
    optimize, count = Phase._optimize, [0]

    def stopping(self):
        if count[0] == after:
            raise KeyboardInterrupt
        count[0] += 1
        return optimize(self)

    monkeypatch.setattr(Phase, "_optimize", stopping)
    return lambda: monkeypatch.setattr(Phase, "_optimize", optimize)


def steps_taken(monkeypatch) -> list[int]:
    optimize, steps = Phase._optimize, []

    def counted(self):
        steps.append(self.step)
        return optimize(self)

    monkeypatch.setattr(Phase, "_optimize", counted)
    return steps


# Steps: 4 of flow with the adapted branch, then 6 of residuals; the state is saved after every second one.
@pytest.mark.parametrize(
    ("branch", "after", "resumed"),
    [
        pytest.param("frozen", 1, [0, 1, 2, 3, 4, 5], marks=pytest.mark.minutes),
        ("frozen", 3, [2, 3, 4, 5]),
        pytest.param("frozen", 5, [4, 5], marks=pytest.mark.minutes),
        pytest.param("adapted", 3, [2, 3, 0, 1, 2, 3, 4, 5], marks=pytest.mark.minutes),
        pytest.param("adapted", 5, [2, 3, 0, 1, 2, 3, 4, 5], marks=pytest.mark.minutes),
        ("adapted", 7, [2, 3, 4, 5]),
        pytest.param("adapted", 9, [4, 5], marks=pytest.mark.minutes),
    ],
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one_to_the_byte(
    own, monkeypatch, request, branch, after, resumed
):
    changes = ADAPTED if branch == "adapted" else {}
    undo = interrupt(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        own.run("finetune", changes=changes)
    assert not (own.root / "models/sigma").exists()
    undo()
    steps = steps_taken(monkeypatch)
    own.run("finetune", changes=changes)
    assert steps == resumed
    assert products(own) == products(request.getfixturevalue("trained_adapted" if changes else "trained"))


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["frozen", "adapted"])
def test_a_killed_training_ends_as_an_uninterrupted_one_to_the_byte(prepared, tmp_path, place, branch):
    changes = {"train": {"steps": 40, "checkpoint_every": 1}}
    changes = (
        changes | {"base": {"branch": "adapted"}, "train": changes["train"] | {"flow_steps": 20}}
        if (branch == "adapted")
        else changes
    )
    whole, killed = prepared.copy(tmp_path / "whole"), prepared.copy(tmp_path / "killed")
    whole.run("finetune", changes=changes)
    killed.configure(changes)
    command = [sys.executable, "-m", "sigma", "finetune"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        process = subprocess.Popen(command, cwd=killed.root, env=environment, stderr=subprocess.DEVNULL)
        states = {file: file.stat().st_mtime_ns for file in place.rglob("state.pt")}
        while process.poll() is None:
            now = {file: file.stat().st_mtime_ns for file in place.rglob("state.pt")}
            if any(states.get(file) != stamp for file, stamp in now.items()):
                break
            time.sleep(0.02)
        assert process.poll() is None, "the training ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed.root / "models/sigma").exists()
    subprocess.run(command, cwd=killed.root, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert products(killed) == products(whole)


def test_a_state_that_cannot_be_read_stops_the_training(own, monkeypatch, place):
    undo = interrupt(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        own.run("finetune")
    undo()
    (state,) = place.rglob("state.pt")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(SigmaError, match=r"state\.pt: checkpoint not readable"):
        own.run("finetune")


def test_a_training_that_another_run_holds_is_refused(own):
    trainer = own.trainer()
    with Scratch.open(trainer.key()), pytest.raises(SigmaError, match="another run trains on the same inputs"):
        own.run("finetune")


KEYS = {
    "train": {"train": {"learning_rate": 0.002}},
    "lora": {"lora": {"rank": 3}},
    "telepathy": {"telepathy": {"width": 32}},
    "loss": {"loss": {"tsac": {"temperature": 0.2}}},
    "branch": ADAPTED,
}


def test_a_checkpoint_of_other_inputs_is_never_found(prepared, tmp_path, monkeypatch):
    plain = prepared.trainer().key()
    assert prepared.trainer().key() == plain
    found = {name: prepared.trainer(change).key() for name, change in KEYS.items()}
    assert len({plain, *found.values()}) == len(found) + 1
    for change in ({"machine": {"batch": 3, "processes": 2}}, {"report": {"seed": 7}}, {"adapter": {"max_scale": 0.5}}):
        assert prepared.trainer(change).key() == plain, change
    for stage, change in {"baseline": {"base": {"seed": 5}}, "window": {"window": {"seed": 5}}}.items():
        world = prepared.copy(tmp_path / stage)
        if stage == "window":
            (world.root / "data/dataset").symlink_to(prepared.root / "data/dataset")
            world.run("window", changes=change)
        world.run("baseline", changes=change)
        assert world.trainer(change).key() != plain, stage
    import sigma.training.setup as module

    monkeypatch.setattr(module, "code_digest", lambda: "other code")
    assert prepared.trainer().key() != plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": {"branch": "adapted"}}, r"train\.flow_steps: found 0 with base\.branch adapted; legal: integer ≥ 1"),
        ({**ADAPTED, "loss": {"flow": 0.1}}, r"loss\.flow: found 0\.1 with base\.branch adapted.*legal: 0"),
        (
            {**ADAPTED, "train": {"flow_steps": 1, "lora_learning_rate": 0.0}},
            r"lora_learning_rate: found 0 with base\.branch adapted.*legal: > 0",
        ),
        (
            {"loss": {"flow": 0.1}, "train": {"lora_learning_rate": 0.0}},
            r"loss\.flow: found 0\.1 with train\.lora_learning_rate 0.*legal: 0",
        ),
        ({"telepathy": {"layers": [-3]}}, r"telepathy\.layers: found \[-3\]; legal: distinct integers from -2 to 1"),
        ({"telepathy": {"layers": [0, -2]}}, r"telepathy\.layers"),
        (
            {"train": {"gradient_checkpointing": True}, "loss": {"flow": 0.1}},
            r"train\.gradient_checkpointing: found true with flow matching",
        ),
    ],
)
def test_parameters_that_do_not_go_together_are_refused_by_name(prepared, changes, message):
    with pytest.raises(SigmaError, match=message):
        prepared.trainer(changes)


def test_no_validation_window_is_refused(prepared):
    material = prepared.material()
    material.columns["split"] = np.where(material.split == "validation", "test", material.split)
    with pytest.raises(SigmaError, match="no validation window is left"):
        Trainer(material, prepared.configure())


def test_without_a_learning_rate_lora_stays_as_it_began_and_out_of_the_clipped_norm(prepared):
    # Alignment from the first step on: the residual heads, whose last layers are zero, send LoRA no gradient yet.
    aligned = {"loss": {"tsac": {"memory_text": 1.0, "start": 0.0, "end": 0.0}}, "train": {"clip": 1e9}}
    still = merge(aligned, {"train": {"lora_learning_rate": 0.0}})
    trainer = prepared.trainer(still)
    before = {name: one.detach().clone() for name, one in trainer.build().adapted.named_parameters()}
    trainer = prepared.trainer(still)
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
    after = dict(result.model.adapted.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(tensor.any() for name, tensor in after.items() if ".lora_B." in name)
    heads = sum(parameter.numel() for parameter in result.model.heads.parameters())
    assert result.trainable == heads
    plain = prepared.trainer(aligned)
    with Scratch.open(plain.key()) as scratch:
        other = plain.run(scratch)
    # B's gradient is there from the first step on: a norm that counted it would be larger.
    first, with_lora = (one.curves[0].train[0] for one in (result, other))
    assert first["loss"] == with_lora["loss"] and first["grad_norm"] < 0.999 * with_lora["grad_norm"]


def test_what_never_has_a_gradient_is_not_counted_as_trained(prepared):
    counts = {}
    for name, change in {"whole": {}, "film": {"film": False}, "constant": {"factor_source": "constant"}}.items():
        trainer = prepared.trainer({"telepathy": change, "train": {"steps": 1}})
        film = sum(parameter.numel() for parameter in trainer.build().heads.film.parameters())
        trainer = prepared.trainer({"telepathy": change, "train": {"steps": 1}})
        with Scratch.open(trainer.key()) as scratch:
            counts[name] = trainer.run(scratch).trainable
    assert counts["film"] == counts["whole"] - film
    assert counts["constant"] < counts["whole"]


def test_the_mlp_is_trained_by_regression_and_hard_windows_alone(prepared):
    changes = {"telepathy": {"architecture": "mlp"}}
    trainer = prepared.trainer(changes)
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
    assert {"vec", "chk", "trj"} <= result.curves[0].train[-1].keys()
    assert not {"tau", "memory_text", "tau_l2", "sem_align"} & result.curves[0].train[-1].keys()
    # What shapes telepathy has nothing to shape here.
    other = prepared.trainer(changes, {"loss": {"tau": 9.0, "tsac": {"memory_text": 9.0}}})
    with Scratch.open(other.key()) as scratch:
        same = other.run(scratch)
    pairs = zip(result.model.heads.parameters(), same.model.heads.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_the_command_says_what_it_did(own):
    (line,) = own.run("finetune")
    assert line.startswith("finetune: ") and "6 steps, validation mse_plan" in line
    with inside(own.root):
        assert finetune.MODEL.is_dir()
    losses = (own.root / "data/training/residual/plots/metrics/train/loss.tsv").read_text().splitlines()
    assert len(losses) == 7
    errors = (own.root / "data/training/residual/plots/metrics/validation/error.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in errors] == ["step", "3", "6"]


@pytest.mark.minutes
@pytest.mark.parametrize("extra", [{}, ADAPTED])
def test_autocast_computes_in_16_bits_and_learns_in_32(prepared, extra, monkeypatch):
    products = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *given: products.append(linear(*given)) or products[-1])
    losses, kinds = [], []
    for autocast in (None, "bfloat16"):
        trainer = prepared.trainer(extra, {"train": {"autocast": autocast, "batch": 8}})
        with Scratch.open(trainer.key()) as scratch:
            model = trainer.run(scratch)
        kinds.append({one.dtype for one in products})
        losses.append([point["loss"] for curve in model.curves for point in curve.train])
        products.clear()
        trained = [one for name, one in model.model.named_parameters() if ".lora_" in name or name.startswith("heads.")]
        assert {one.dtype for one in trained} == {torch.float32}
    assert kinds == [{torch.float32}, {torch.float32, torch.bfloat16}], "validation computes as evaluation does"
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.01) and losses[1][0] != losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.3), "later steps start from other weights"


def test_autocast_of_a_base_of_16_bits_is_refused(prepared):
    trainer = prepared.trainer()
    material = replace(trainer.material, dtype="bfloat16")
    train = trainer.train.model_copy(update={"autocast": "bfloat16"})
    parameters = trainer.parameters.model_copy(update={"train": train})
    for kind in ("residual", "lora"):
        with pytest.raises(SigmaError, match=r"train\.autocast: found bfloat16 with base\.dtype bfloat16"):
            new_trainer(kind, material, parameters)


def test_compilation_without_a_compiler_is_refused_before_the_first_step(prepared, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    for kind in ("residual", "lora"):
        trainer = prepared.trainer(ADAPTED, {"machine": {"compile": True}})
        with pytest.raises(SigmaError, match=r"machine.compile: found true .* \(no-such-compiler is not on the path\)"):
            new_trainer(kind, trainer.material, trainer.parameters).build()


@pytest.mark.slow  # a minute of compilation
def test_compiled_steps_are_plain_ones_up_to_the_last_digits(prepared):
    losses = []
    for compiled in (False, True):
        trainer = prepared.trainer(ADAPTED, {"machine": {"compile": compiled}})
        with Scratch.open(trainer.key()) as scratch:
            result = trainer.run(scratch)
            scratch.clear()
        layers = result.model.policy.model.paligemma_with_expert.gemma_expert.model.layers
        assert all((layer.mlp._compiled_call_impl is not None) == compiled for layer in layers)
        losses.append([point["loss"] for curve in result.curves for point in curve.train])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
