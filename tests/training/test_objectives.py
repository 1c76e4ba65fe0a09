"""The objective of finetune: π0.5's own loss, weighted by span and by hard windows, however a step is cut."""

import numpy as np
import pytest
import torch

from sigma.policy.model import lora
from sigma.training.flow import draw_noise_and_time, flow_losses, step_noise
from sigma.training.objectives import FlowObjective, evaluating
from sigma.training.trainer import Trainer
from tests.policy.model.test_decision import awaken
from tests.training.test_flow import lerobot_losses

# Nothing but flow matching of the windows as they are.
PLAIN = {
    "train": {"state_noise": 0.0, "views": 0},
    "loss": {"recall": 0.0, "tau": 0.0, "tsac": {"memory_text": 0.0, "intent_telepathy": 0.0}},
}

SHOWN = {"vec", "chk", "trj", "recall", "tau", "tau_l2", "sem_align", "memory_text", "intent_telepathy"}


def objective_of(trainer: Trainer, *, awake: bool = True) -> FlowObjective:
    """What ``trainer`` minimises, by default of a model whose zero weights are random numbers."""
    model = trainer.build()
    if awake:
        awaken(model)
    objective = trainer.phase(model).objective
    assert isinstance(objective, FlowObjective)
    return objective


def whole_windows(objective: FlowObjective, count: int = 6) -> np.ndarray:
    """Rows of train windows without padded steps."""
    valid = objective.batches.shards.window_valid[objective.train]
    return np.flatnonzero(valid.all(axis=1))[:count]


@torch.no_grad()
def test_with_the_weights_0_0_1_it_is_lerobots_own_training_loss(prepared):
    objective = objective_of(prepared.trainer(PLAIN, {"train": {"flow_draws": 1}}), awake=False)
    assert (objective.losses.vec, objective.losses.chk, objective.losses.trj) == (0, 0, 1)
    rows = whole_windows(objective)
    noise, time = step_noise(objective.model.policy.config, objective.parameters, 3, slice(0, 6), 6)
    with lora.disabled(objective.model.adapted):
        expected = lerobot_losses(objective.batches, objective.train[rows], noise, time).mean()
    loss, logs = objective.loss(rows, 3, 0, len(rows))
    assert loss.item() == pytest.approx(expected, rel=1e-4) and logs["trj"] == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_spans_and_hard_windows_have_their_weights(prepared):
    weights = {"vec": 0.5, "chk": 0.25, "trj": 2.0}
    objective = objective_of(prepared.trainer(PLAIN, {"loss": weights}))
    rows, model, batches = np.arange(6), objective.model, objective.batches
    windows = objective.train[rows]
    noise, time = step_noise(model.policy.config, objective.parameters, 3, slice(0, 6), 6)
    spans = flow_losses(model.policy, batches, model.adapted_pass(*batches.observation(windows)), windows, noise, time)
    means = {span: losses.numpy().mean(axis=1) for span, losses in spans.items()}
    summed = 0.5 * means["vector"] + 0.25 * means["chunk"] + 2.0 * means["trajectory"]
    objective.rows(3)
    assert objective.loss(rows, 3, 0, 6)[0].item() == pytest.approx(summed.mean(), rel=1e-5)
    # A table in which every fourth window is hard: these share 40 % of the loss.
    objective.hard.errors = np.where(np.arange(len(objective.train)) % 4 == 0, 2.0, 1.0)
    objective.rows(3)
    hard = np.arange(len(objective.train)) % 4 == 0
    expected = np.where(hard, 0.4 / hard.mean(), 0.6 / (1 - hard.mean()))
    assert objective.loss(rows, 3, 0, 6)[0].item() == pytest.approx((expected[rows] * summed).mean(), rel=1e-5)


def gradients(objective: FlowObjective, cuts: list[tuple[int, int]], rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Gradients of a step that is cut so, by name; TRAF's tables have then been written."""
    objective.model.zero_grad()
    for start, stop in cuts:
        objective.loss(rows[start:stop], 3, start, len(rows))[0].backward()
    objective.after_step()
    named = [*objective.model.heads.named_parameters(), *objective.model.trained().items()]
    return {name: one.grad.clone() for name, one in named if one.grad is not None}


@pytest.mark.parametrize("cuts", [[(row, row + 1) for row in range(9)], [(0, 4), (4, 5), (5, 9)]], ids=["one", "few"])
def test_windows_that_share_an_unroll_learn_what_each_learns_alone(prepared, cuts):
    """However a step is cut: losses, terms, gradients and TRAF's tables are those of the whole, noise included."""
    # All windows of one episode, for which one unroll is made, and two of another.
    results = []
    for parts in ([(0, 9)], cuts):
        objective = objective_of(prepared.trainer({"train": {"state_noise": 0.1}}))
        shards = objective.batches.shards
        episodes = shards.window_episode[objective.train]
        first, second = (np.flatnonzero(episodes == episode) for episode in np.unique(episodes)[:2])
        rows = np.concatenate([first[:7], second[-2:]])
        assert len(objective.batches.past(objective.train[rows]).views) == 2 and len(rows) == 9
        losses = [objective.loss(rows[start:stop], 3, start, 9) for start, stop in parts]
        objective.seen.clear()
        logs = {name: sum(terms[name] for _, terms in losses) for name in losses[0][1]}
        value = sum(loss.item() for loss, _ in losses)
        results.append((value, logs, gradients(objective, parts, rows), objective.hard.errors, objective.levels.means))
    (one, logs, expected, *tables), (other, summed, found, *others) = results
    assert other == pytest.approx(one, rel=1e-6)
    assert summed == pytest.approx(logs, rel=1e-5, abs=1e-7)
    assert set(logs) == SHOWN
    for table, same in zip(tables, others, strict=True):
        np.testing.assert_allclose(same, table, rtol=1e-5)
    assert found.keys() == expected.keys() and any(name.startswith("path.memory_cell") for name in found)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        difference = (found[name] - gradient).abs().max().item()
        assert difference <= 5e-5 * largest, name  # the digits that the passes of a whole policy lose


@torch.no_grad()
def test_traf_learns_which_windows_are_hard_at_their_noise_level(prepared):
    objective = objective_of(prepared.trainer(PLAIN))
    rows = np.arange(8)
    losses = objective.loss(rows, 0, 0, 8)[1]["trj"]
    _, time = step_noise(objective.model.policy.config, objective.parameters, 0, slice(0, 8), 8)
    (seen,) = objective.seen
    assert seen[1].mean() == pytest.approx(losses, rel=1e-5)
    objective.after_step()
    bins = np.minimum((time.double().numpy() * 10).astype(int), 9)
    level = {number: seen[1][bins == number].mean() for number in np.unique(bins)}
    expected = [
        np.mean([loss / level[number] for loss, number in zip(*row, strict=True)])
        for row in zip(seen[1], bins, strict=True)
    ]
    np.testing.assert_allclose(objective.hard.errors[rows], expected, rtol=1e-6)
    assert np.isnan(objective.hard.errors[8:]).all() and not objective.seen


def test_validation_is_the_flow_loss_of_every_window_whatever_the_batch(prepared):
    trainer = prepared.trainer({"lora": {"dropout": 0.9}})
    objective = objective_of(trainer)
    batches, model = objective.batches, objective.model
    value = objective.validate(4)
    plan_error = objective.extra_metrics["mse_plan"]
    assert objective.validate(4) == value, "no dropout, and the same noise at every validation"
    assert objective.validate(2) == pytest.approx(value, rel=1e-5) and model.training
    windows, losses, squares = objective.validation, [], []
    draws = trainer.parameters.train.validation_draws
    noise, time = draw_noise_and_time(model.policy.config, len(windows), draws, 0, "flow-validation")
    with evaluating(model):
        assert not model.training and not torch.is_grad_enabled()
        for row, window in enumerate(windows):
            passed = model.adapted_pass(*batches.observation(np.array([window])))
            one = slice(row, row + 1)
            losses.append(flow_losses(model.policy, batches, passed, windows[one], noise[one], time[one])["trajectory"])
            action = batches.decide(model.policy, passed.encoded, windows[one], "zero_noise", passed.steering)
            valid = batches.columns["valid"][window]
            squares.append(((action[0].numpy() - batches.columns["action"][window])[valid] ** 2).mean())
    assert value == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert plan_error == pytest.approx(np.mean(squares), rel=1e-4)
