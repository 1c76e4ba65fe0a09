"""Training Sigma on the small world: every switch does something, and a killed run ends as if it never was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sigma.commands import finetune
from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder
from sigma.training.loop import Phase
from sigma.training.state import Scratch
from sigma.training.trainer import Trainer, TrainingResult
from tests.training.test_objectives import objective_of
from tests.worlds import ROOT, World, inside, merge

WINDOWS = 8


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """Every test has its own place for checkpoints, as none may find those of another."""
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def products(world: World) -> dict[str, str]:
    """Digests of what finetune writes."""
    return {name: digest_folder(world.root / name) for name in ("models/sigma", "data/training")}


def finished(world: World, *changes) -> TrainingResult:
    """The result of a whole training, whose state is then removed as the stage does."""
    trainer = world.trainer(*changes)
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
        scratch.clear()
    return result


def step_loss(world: World, *changes, step: int = 3) -> float:
    """The loss of optimizer step 3 of 6, in the middle of the curriculum, with a known table of errors."""
    objective = objective_of(world.trainer({"train": {"batch": WINDOWS}}, *changes))
    objective.hard.errors = np.arange(len(objective.train), dtype=float)
    torch.manual_seed(1)
    rows = objective.rows(step)
    with torch.no_grad():
        return objective.loss(rows, step, 0, len(rows))[0].item()


SWITCHES = {
    "vec": {"loss": {"vec": 0.5}},
    "chk": {"loss": {"chk": 0.5}},
    "trj": {"loss": {"trj": 0.5}},
    "recall": {"loss": {"recall": 0.5}},
    "tau": {"loss": {"tau": 0.5}},
    "tau_band": {"loss": {"tau_band": 0.3}},
    "traf off": {"loss": {"traf": {"top_k": 0.0}}},
    "traf top_k": {"loss": {"traf": {"top_k": 0.35}}},
    "traf focus": {"loss": {"traf": {"focus": 0.9}}},
    "memory_text": {"loss": {"tsac": {"memory_text": 0.5}}},
    "intent_telepathy": {"loss": {"tsac": {"intent_telepathy": 0.5}}},
    "tsac start": {"loss": {"tsac": {"start": 0.45}}},
    "tsac end": {"loss": {"tsac": {"end": 0.55}}},
    "temperature": {"loss": {"tsac": {"temperature": 1.0}}},
    "bank": {"loss": {"tsac": {"bank": ["close the box"]}}},
    "flow_draws": {"train": {"flow_draws": 1}},
    "state_noise": {"train": {"state_noise": 0.5}},
    "train seed": {"train": {"seed": 1}},
    "film": {"telepathy": {"film": False}},
    "branches": {"telepathy": {"branches": ["condition", "vector", "trajectory"]}},
    "memory": {"telepathy": {"memory": "cleared"}},
    "present backbone": {"telepathy": {"present": "backbone"}},
    "present motion": {"telepathy": {"present": "motion"}},
    "factor_source": {"telepathy": {"factor_source": "constant"}},
    "factor_tokens": {"telepathy": {"factor_tokens": 1}},
    "tau_norm": {"telepathy": {"tau_norm": 9.0}},
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
    assert step_loss(prepared, {"loss": {"traf": {"decay": 0.1}}}) == plain_loss, "decay acts on the tables alone"


def weights_of(result: TrainingResult) -> dict[str, torch.Tensor]:
    named = [*result.model.heads.named_parameters(), *result.model.trained().items()]
    return {name: parameter.detach() for name, parameter in named}


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(other[name], tensor) for name, tensor in one.items())


LAST = {"train": {"steps": 3, "select": "last"}}


@pytest.mark.minutes
def test_every_number_of_the_optimisation_changes_the_trained_weights(prepared):
    plain = weights_of(finished(prepared, LAST))
    changes = {
        "learning_rate": 0.03,
        "lora_learning_rate": 0.03,
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
        assert differ(plain, weights_of(finished(prepared, LAST, {"train": {name: value}}))), name
    for name, value in {"validate_every": 1, "checkpoint_every": 1, "validation_draws": 1}.items():
        assert not differ(plain, weights_of(finished(prepared, LAST, {"train": {name: value}}))), name


def test_cached_image_tokens_teach_what_fresh_ones_do(prepared):
    cached, fresh = (finished(prepared, LAST, {"train": {"cache_vision": on}}) for on in (True, False))
    losses = [[point["loss"] for point in result.curve.train] for result in (cached, fresh)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert cached.batches.vision and not fresh.batches.vision


def test_checkpointed_layers_train_what_plain_ones_do(prepared):
    plain, checkpointed = (finished(prepared, LAST, {"train": {"gradient_checkpointing": on}}) for on in (False, True))
    assert plain.curve.train == checkpointed.curve.train
    assert not differ(weights_of(plain), weights_of(checkpointed))
    policies = (result.model.policy.model.paligemma_with_expert for result in (plain, checkpointed))
    assert ["forward" in vars(policy.gemma_expert.model.layers[0]) for policy in policies] == [False, True]


@pytest.mark.minutes
def test_the_table_of_errors_decides_what_is_hard(prepared):
    every = {"train": {"batch": 30, "steps": 6, "select": "last"}}
    plain = weights_of(finished(prepared, every))
    for changes in ({"decay": 0.0}, {"top_k": 0.0}):
        assert differ(plain, weights_of(finished(prepared, every, {"loss": {"traf": changes}}))), changes


def test_the_sizes_of_the_heads_are_those_of_the_parameters(prepared):
    changes = {"width": 24, "factors": 5, "factor_dim": 2, "factor_tokens": 4, "branches": ["vector"]}
    heads = prepared.trainer({"telepathy": changes}).build().heads
    assert heads.path.memory_cell.hidden_size == 24 and heads.path.factor_network[2].out_features == 10
    assert heads.path.motion.project.in_features == 3 * 6 and heads.path.present.project.in_features == 4 * 24
    assert heads.factor_tokens.shape == (4, 24) and set(heads.branches.maps) == {"vector"}
    assert heads.branches.maps["vector"].out_features == 16, "the width of the action expert"


def test_inputs_are_measured_on_what_training_reads_and_on_nothing_else(prepared):
    trainer = prepared.trainer()
    batches, path = trainer.batches, trainer.build().heads.path
    shards, train = batches.shards, np.flatnonzero(batches.split == "train")
    views, changes = [], []
    for episode in shards.meta["splits"]["train"]:
        last = shards.window_step[train[shards.window_episode[train] == episode]].max()
        steps = shards.frame_step
        read = np.flatnonzero((shards.frame_episode == episode) & (steps % 4 == 0) & (steps < last))
        views.append(batches.frame_views[read[np.argsort(steps[read])]])
        changes.append(views[-1][1:] - views[-1][:-1])
    observation, _ = batches.observation(train)
    samples = {
        path.views: torch.cat(views),
        path.changes: torch.cat(changes),
        path.motion: observation.motion,
        path.present: torch.cat([observation.vision.mean(2), observation.vision.amax(2)], dim=1),
    }
    for part, values in samples.items():
        values = values.double().numpy()
        np.testing.assert_allclose(part.centre.numpy(), values.mean(0), rtol=1e-4, atol=1e-5)
        spread = values.std(0)
        np.testing.assert_allclose(
            part.spread.numpy(), np.maximum(spread, 0.1 * np.sqrt((spread**2).mean())), rtol=1e-4
        )


@pytest.mark.minutes
def test_training_lowers_the_validation_loss_below_the_bases(prepared):
    before = objective_of(prepared.trainer(), awake=False).validate(8)
    changes = {"train": {"steps": 60, "validate_every": 20, "average": 0.9}}
    result = finished(prepared, changes)
    assert result.validation < 0.7 * before
    points = {point["step"]: point["value"] for point in result.curve.validation}
    assert list(points) == [20, 40, 60] and len(result.curve.train) == 60
    assert (result.validation, result.selected) == min((value, step) for step, value in points.items())
    assert all(point["mse_plan"] > 0 for point in result.curve.validation)


@pytest.mark.minutes
def test_each_trained_projection_of_both_towers_carries_its_part(prepared):
    trainer = prepared.trainer({"train": {"steps": 10, "average": 0.0, "select": "last"}})
    with Scratch.open(trainer.key()) as scratch:
        model = trainer.run(scratch).model
    objective = objective_of(prepared.trainer(), awake=False)
    objective.model, objective.batches = model, trainer.batches
    whole, silent = objective.validate(64), []
    names = list(lora.lora_layers(model.adapted))
    assert len(names) == 16
    for name in names:
        with lora.disabled(model.adapted, only=[name]):
            if objective.validate(64) == whole:
                silent.append(name)
    # The last layer's queries and outputs feed nothing that the action expert reads, so flow matching leaves them.
    last = "paligemma.model.language_model.layers.1.self_attn."
    assert sorted(name.split("paligemma_with_expert.")[1] for name in silent) == [f"{last}o_proj", f"{last}q_proj"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(own, trained):
    own.run("finetune")
    assert products(own) == products(trained)
    own.run("finetune", changes={"train": {"seed": 1}})
    assert products(own)["models/sigma"] != products(trained)["models/sigma"]


def test_a_finished_training_leaves_no_state_behind(own, place):
    own.run("finetune")
    assert [file for file in place.rglob("*") if file.is_file() and file.suffix != ".lock"] == []


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


# The state is saved after every second of six steps. After the fourth TRAF's table is known, so that the last two
# steps weight their windows by what a resumed run must have kept.
@pytest.mark.parametrize(
    ("after", "resumed"),
    [
        pytest.param(1, [0, 1, 2, 3, 4, 5], marks=pytest.mark.minutes),
        pytest.param(3, [2, 3, 4, 5], marks=pytest.mark.minutes),
        (5, [4, 5]),
    ],
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one_to_the_byte(own, trained, monkeypatch, after, resumed):
    undo = interrupt(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        own.run("finetune")
    assert not (own.root / "models/sigma").exists()
    undo()
    steps = steps_taken(monkeypatch)
    own.run("finetune")
    assert steps == resumed
    assert products(own) == products(trained)


@pytest.mark.parametrize("table", ["hard.errors", "levels.means"])
def test_trafs_tables_survive_a_resume(prepared, table):
    first, second = (objective_of(prepared.trainer()) for _ in range(2))
    for step in range(4):
        first.loss(first.rows(step), step, 0, WINDOWS)
        first.after_step()
    second.load_state(first.state())
    part, name = table.split(".")
    values = getattr(getattr(first, part), name)
    assert np.isfinite(values).sum() > 5
    np.testing.assert_array_equal(getattr(getattr(second, part), name), values)
    assert first.hard.known and len(set(second.hard.weights())) == 2


@pytest.mark.slow
def test_a_killed_training_ends_as_an_uninterrupted_one_to_the_byte(prepared, tmp_path, place):
    changes = {"train": {"steps": 40, "checkpoint_every": 1}}
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


def test_without_a_learning_rate_lora_stays_as_it_began_and_out_of_the_clipped_norm(prepared):
    unclipped = {"train": {"clip": 1e9, "steps": 3}}
    still = merge(unclipped, {"train": {"lora_learning_rate": 0.0}})
    before = {name: one.detach().clone() for name, one in prepared.trainer(still).build().trained().items()}
    result, plain = finished(prepared, still), finished(prepared, unclipped)
    after = result.model.trained()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(tensor.any() for name, tensor in after.items() if ".lora_B." in name)
    assert result.trainable == sum(parameter.numel() for parameter in result.model.heads.parameters())
    # B's gradient is there from the first step on: a norm that counted it would be larger.
    first, with_lora = (one.curve.train[0] for one in (result, plain))
    assert first["loss"] == with_lora["loss"] and first["grad_norm"] < 0.999 * with_lora["grad_norm"]


def test_what_never_has_a_gradient_is_not_counted_as_trained(prepared):
    result = finished(prepared, {"telepathy": {"factor_source": "constant"}, "train": {"steps": 1}})
    path = result.model.heads.path
    unread = (path.factor_network, path.present, path.present_state, path.motion)
    silent = sum(parameter.numel() for module in unread for parameter in module.parameters())
    every = sum(parameter.numel() for parameter in weights_of(result).values())
    # Nothing reads the outputs of the language model's last layer, so its queries and outputs have no gradient.
    adapter = result.model.trained()
    last = [f"language_model.layers.1.self_attn.{part}_proj" for part in "qo"]
    silent += sum(one.numel() for name, one in adapter.items() if any(part in name for part in last))
    assert result.trainable == every - silent


def test_the_command_says_what_it_did(own):
    (line,) = own.run("finetune")
    assert line.startswith("finetune: ") and "6 steps, validation flow loss" in line
    with inside(own.root):
        assert finetune.MODEL.is_dir()
    metrics = own.root / "data/training/plots/metrics"
    assert len((metrics / "train/loss.tsv").read_text().splitlines()) == 7
    for name in ("flow", "mse_plan"):
        rows = (metrics / f"validation/{name}.tsv").read_text().splitlines()
        assert [row.split("\t")[0] for row in rows] == ["step", "3", "6"]


@pytest.mark.minutes
def test_autocast_computes_in_16_bits_and_learns_in_32(prepared, monkeypatch):
    products = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *given: products.append(linear(*given)) or products[-1])
    losses, kinds = [], []
    for autocast in (None, "bfloat16"):
        result = finished(prepared, {"train": {"autocast": autocast, "learning_rate": 0.001}})
        kinds.append({one.dtype for one in products})
        losses.append([point["loss"] for point in result.curve.train])
        products.clear()
        assert {one.dtype for one in weights_of(result).values()} == {torch.float32}
    assert kinds == [{torch.float32}, {torch.float32, torch.bfloat16}], "validation computes as evaluation does"
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.01) and losses[1][0] != losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.3), "later steps start from other weights"


def test_compilation_without_a_compiler_is_refused_before_the_first_step(prepared, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SigmaError, match=r"machine.compile: found true .* \(no-such-compiler is not on the path\)"):
        prepared.trainer({"machine": {"compile": True}}).build()


@pytest.mark.slow  # a minute of compilation
def test_compiled_steps_are_plain_ones_up_to_the_last_digits(prepared):
    losses = []
    for compiled in (False, True):
        result = finished(prepared, {"machine": {"compile": compiled}})
        layers = result.model.policy.model.paligemma_with_expert.gemma_expert.model.layers
        assert all((layer.mlp._compiled_call_impl is not None) == compiled for layer in layers)
        losses.append([point["loss"] for point in result.curve.train])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_windows_before_a_correction_are_left_out_and_the_others_weighed(prepared):
    trainer = prepared.trainer({"loss": {"traf": {"correction": 3.0, "before": 1.0, "autonomous": 0.5}}})
    shards, rows = trainer.batches.shards, trainer.parts["train"]
    shards.window_to_correction[rows[:3]] = [0.5, 1.0, 0.0]
    shards.window_intervention[rows[2]] = True
    again = Trainer(trainer.batches, trainer.parameters)
    assert again.parts["train"].tolist() == rows[1:].tolist()
    assert again.parts["validation"].tolist() == trainer.parts["validation"].tolist()
    assert objective_of(again).hard.worth.tolist() == [0.5, 3.0, *[1.0] * (len(rows) - 3)]


def test_windows_that_all_count_nothing_are_refused(prepared):
    trainer = prepared.trainer()
    trainer.batches.shards.window_to_correction[:] = 0.5
    with pytest.raises(SigmaError, match=r"loss.traf.before, loss.traf.autonomous: every train window counts 0"):
        Trainer(trainer.batches, trainer.parameters)
