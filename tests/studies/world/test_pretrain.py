"""Pretraining learns, resumes to the bit, never sees a held-out episode, and writes a base that loads."""

import csv
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.description import describe_base
from sigma.shared.errors import SigmaError
from sigma.studies.world import pretrain as command
from sigma.studies.world.demonstrations import load_demonstrations, sampling_weights, split_frames
from sigma.studies.world.pretraining import (
    PretrainingObjective,
    fall_in_last_fifth,
    new_policy,
    plateau_schedule,
    pretrain,
)
from sigma.studies.world.recipe import Recipe
from sigma.training.flow import draw_noise_and_time
from sigma.training.state import Scratch
from tests.bases import tiny_policy
from tests.datasets import write_dataset

SIZES = dict(
    patch_size=16,
    vision_width=16,
    vision_layers=1,
    vision_heads=2,
    vision_mlp=16,
    language_width=32,
    language_mlp=32,
    expert_width=32,
    expert_mlp=32,
    depth=2,
    head_dim=4,
    chunk_size=8,
    num_inference_steps=5,
    tokenizer_max_length=24,
)
VALUES = dict(
    seed=0,
    resolution=32,
    sizes=SIZES,
    steps=6,
    batch=8,
    draws=3,
    learning_rate=3e-3,
    warmup=2,
    cooldown=0.5,
    weight_decay=0.01,
    clip=1.0,
    ema=0.9,
    state_jitter=0.02,
    balance=0.5,
    held_out=0.2,
    held_out_frames=32,
    evaluate_every=3,
    checkpoint_every=1,
)
LENGTHS = (20, 14, 18, 16, 22, 15)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("demonstrations") / "data", lengths=LENGTHS, size=(32, 32))


@pytest.fixture(scope="module")
def demonstrations(folder):
    return load_demonstrations(folder, 32)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    with Scratch.open("a" * 64) as place:
        yield place


def recipe(**changes) -> Recipe:
    return Recipe(**{**VALUES, **changes})


def test_frames_are_decoded_once_in_order(demonstrations, folder):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    assert demonstrations.images.shape == (sum(LENGTHS), 2, 3, 32, 32)
    reader = LeRobotDataset("tests/small", root=folder, video_backend="pyav")
    for index in (0, 19, 20, 57, len(reader) - 1):
        item = reader[index]
        for view, camera in enumerate(demonstrations.cameras):
            # One grey level: the two readers round the conversion from YUV differently.
            found = demonstrations.images[index, view].float()
            assert (found - item[camera] * 255).abs().max() <= 1
        np.testing.assert_array_equal(demonstrations.states[index], item["observation.state"])
        np.testing.assert_array_equal(demonstrations.actions[index], item["action"])
        assert demonstrations.texts(np.array([index])) == [item["task"]]


def test_chunks_never_cross_an_episodes_end(demonstrations):
    last = LENGTHS[0] - 1
    chunks = demonstrations.action_chunks(np.array([0, last - 2]), 8)
    np.testing.assert_array_equal(chunks[0], demonstrations.actions[:8])
    np.testing.assert_array_equal(chunks[1, :3], demonstrations.actions[last - 2 : last + 1])
    np.testing.assert_array_equal(chunks[1, 3:], np.repeat(demonstrations.actions[[last]], 5, axis=0))


def test_held_out_episodes_are_whole_and_of_every_instruction(demonstrations):
    train, held_out = split_frames(demonstrations, 0.2, seed=3)
    assert sorted([*train, *held_out]) == list(range(sum(LENGTHS)))
    assert not set(demonstrations.episode[train]) & set(demonstrations.episode[held_out])
    assert set(demonstrations.texts(held_out)) == set(demonstrations.instructions)
    others = {tuple(split_frames(demonstrations, 0.2, seed=seed)[1]) for seed in range(6)}
    assert len(others) > 1


def test_statistics_and_batches_come_from_training_episodes_alone(demonstrations):
    training = PretrainingObjective(recipe(), demonstrations)
    expected = np.quantile(demonstrations.states[training.train_frames].astype(np.float64), 0.99, axis=0)
    np.testing.assert_array_equal(training.statistics["observation.state"].q99, expected.astype(np.float32))
    assert not set(training.held_out_frames) & set(training.train_frames)
    assert set(np.concatenate([training.rows(step) for step in range(20)])) <= set(training.train_frames)


def test_balance_trades_frames_for_instructions(demonstrations):
    frames = np.arange(sum(LENGTHS))
    first = np.array(demonstrations.texts(frames)) == demonstrations.instructions[0]
    assert np.ptp(sampling_weights(demonstrations, frames, 0.0)) == 0
    assert sampling_weights(demonstrations, frames, 1.0)[first].sum() == pytest.approx(0.5)
    assert 0.5 < sampling_weights(demonstrations, frames, 0.5)[first].sum() < first.mean()


def test_times_follow_the_beta_law_of_the_policy():
    config = tiny_policy().config
    noise, times = draw_noise_and_time(config, 500, 8, 0, "x")
    assert noise.shape == (500, 8, config.chunk_size, config.max_action_dim)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    assert float(times.min()) > 0
    assert float(times.max()) <= 1
    # Beta(1.5, 1) has the distribution function t^1.5.
    for quantile in (0.25, 0.5, 0.75):
        assert float((times < quantile ** (1 / 1.5)).float().mean()) == pytest.approx(quantile, abs=0.03)
    assert torch.equal(draw_noise_and_time(config, 500, 8, 0, "x")[1], times)
    assert not torch.equal(draw_noise_and_time(config, 500, 8, 0, "y")[1], times)


@pytest.mark.minutes
def test_training_beats_the_references_that_know_nothing(demonstrations, scratch):
    values = dict(steps=200, batch=32, learning_rate=1e-2, warmup=20, ema=0.95, evaluate_every=50)
    trained = pretrain(recipe(**values, checkpoint_every=200), demonstrations, scratch)
    summary = trained.summary
    assert trained.curve[-1]["held_out_loss"] < trained.curve[0]["held_out_loss"]
    assert summary["open_loop_mse_policy"] < 0.8 * min(summary["open_loop_mse_mean"], summary["open_loop_mse_hold"])
    assert [row["step"] for row in trained.curve] == [50, 100, 150, 200]


def test_a_killed_run_resumes_to_the_same_weights_and_curve(demonstrations, scratch, monkeypatch):
    whole = pretrain(recipe(checkpoint_every=6), demonstrations, scratch)
    assert scratch.load() is None
    rows, steps = PretrainingObjective.rows, []

    def followed(self, step):
        steps.append(step)
        if steps == [0, 1, 2, 3, 4]:
            raise KeyboardInterrupt
        return rows(self, step)

    monkeypatch.setattr(PretrainingObjective, "rows", followed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe(), demonstrations, scratch)
    resumed = pretrain(recipe(), demonstrations, scratch)
    assert steps[5:] == [4, 5]
    assert (resumed.curve, resumed.summary) == (whole.curve, whole.summary)
    expected = whole.policy.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.policy.state_dict().items())


def test_the_loss_of_a_step_does_not_depend_on_where_its_rows_are_cut(demonstrations):
    objective = PretrainingObjective(recipe(), demonstrations)
    rows = objective.rows(3)
    with torch.no_grad():
        whole = objective.loss(rows, 3, 0, 8)[0]
        parts = [objective.loss(rows[start:stop], 3, start, 8)[0] for start, stop in ((0, 3), (3, 8))]
    torch.testing.assert_close(sum(parts), whole)


def test_initial_weights_depend_on_the_seed_alone(demonstrations):
    first, again, other = (new_policy(recipe(seed=seed), demonstrations.cameras, 6).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    changed = [name for name, tensor in first.items() if not torch.equal(tensor, other[name])]
    assert all(name in changed for name in first if name.endswith("proj.weight"))


def test_the_rate_warms_up_stays_and_ends_at_zero():
    plan = plateau_schedule(recipe(steps=100, warmup=10, cooldown=0.3))
    rates = [plan.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[9:71] == [1.0] * 62
    assert all(later < earlier for earlier, later in pairwise(rates[70:]))
    assert rates[-1] < 5e-3
    longer = plateau_schedule(recipe(steps=200, warmup=10, cooldown=0.3))
    assert [longer.rate(step) for step in range(70)] == rates[:70]


def test_the_stop_rule_compares_the_last_fifth():
    curve = [{"step": step, "held_out_loss": 1.0 - 0.005 * step} for step in range(10, 101, 10)]
    assert fall_in_last_fifth(curve) == pytest.approx(1 - 0.5 / 0.6)


def params_file(path, **changes):
    path.write_text(json.dumps({"pretrain": {**VALUES, **changes}, "simulate": {"seed": 1}}))
    return path


def test_the_command_writes_a_base_that_loads(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    output = tmp_path / "out"
    line = command.run(dataset=folder, output=output, params=params_file(tmp_path / "params.yaml"))
    assert "6 steps" in line
    base = load_base(describe_base(str(output / "base"), None))
    assert base.cameras == ("observation.images.up", "observation.images.wrist")
    assert base.resolution == 32
    assert set(base.statistics) == {"observation.state", "action"}
    assert {tensor.dtype for tensor in load_file(output / "base" / "model.safetensors").values()} == {torch.float16}
    rows = list(csv.DictReader((output / "curve.csv").open()))
    assert [int(row["step"]) for row in rows] == [3, 6]
    assert json.loads((output / "pretrain.json").read_text())["held_out_loss"] == float(rows[-1]["held_out_loss"])
    assert (output / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not any((tmp_path / "scratch").rglob("state.pt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 6}, "warmup 6 must be smaller than steps 6"),
        ({"batch": 0}, r"pretrain\.batch"),
        ({"momentum": 1}, r"pretrain\.momentum: unknown key"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_written(folder, tmp_path, changes, message):
    with pytest.raises(SigmaError, match=message):
        command.run(dataset=folder, output=tmp_path / "out", params=params_file(tmp_path / "params.yaml", **changes))
    assert not (tmp_path / "out").exists()
