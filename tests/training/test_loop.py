"""The optimisation loop on a problem small enough to follow by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sigma.shared.errors import SigmaError
from sigma.shared.seeding import generator
from sigma.training.loop import Phase, Schedule
from sigma.training.sampler import WindowSampler
from sigma.training.state import Scratch

ROWS = 12


class Regression:
    """Least squares with a table, as the real objectives have one, and dropout, which needs the loop's seeding."""

    name = "toy"

    def __init__(self, batch: int, seed: int = 0):
        source = generator(seed, "toy")
        self.inputs = torch.from_numpy(source.standard_normal((ROWS, 5), dtype=np.float32))
        self.targets = torch.from_numpy(source.standard_normal((ROWS, 2), dtype=np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = nn.Linear(5, 2)
        self.table, self.sampler = torch.zeros(ROWS), WindowSampler(ROWS, batch, seed)
        self.read, self.blind, self.taken = [], False, []
        self.seen, self.fail_at, self.broken, self.extra_metrics = [], None, False, {}

    def rows(self, step):
        if step == self.fail_at:
            raise KeyboardInterrupt
        return self.sampler.rows(step)

    def upcoming_rows(self, step):
        return None if self.blind else self.sampler.rows(step)

    def read_ahead(self, rows, step, start, total):
        self.read.append((step, start, rows.tolist()))

    def loss(self, rows, step, start, total):
        self.taken.append((step, start, rows.tolist()))
        predicted = self.model(nn.functional.dropout(self.inputs[rows], 0.2))
        errors = (predicted - self.targets[rows]).square().mean(1) * (1 + 0.1 * self.table[rows])
        self.seen.append((rows, errors.detach()))
        value = errors.sum() / total
        return (value * math.nan if self.broken else value), {"mean": value.item()}

    def after_step(self):
        for rows, errors in self.seen:
            self.table[rows] = 0.5 * self.table[rows] + errors
        self.seen.clear()

    def validate(self, batch):
        with torch.no_grad():
            return (self.model(self.inputs) - self.targets).square().mean().item()

    def state(self):
        return {"table": self.table.clone()}

    def load_state(self, state):
        self.table = state["table"].clone()


def schedule(**changes) -> Schedule:
    settings = dict(steps=10, batch=4, accumulation=1, warmup=0.2, weight_decay=0.01, clip=1.0, average=0.9)
    settings |= dict(validate_every=3, checkpoint_every=2, select="best", seed=0)
    return Schedule(**settings | changes)


def phase(**changes) -> Phase:
    plan = schedule(**changes)
    objective = Regression(plan.batch * plan.accumulation, plan.seed)
    return Phase(objective, [(dict(objective.model.named_parameters()), 0.1)], plan)


@pytest.fixture
def scratch(tmp_path) -> Scratch:
    folder = tmp_path / "state"
    folder.mkdir()
    return Scratch(folder)


def weights(one: Phase) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in one.named.values()]


def test_the_rate_warms_up_and_falls_to_zero():
    plan = schedule(steps=100, warmup=0.1)
    rates = [plan.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11) and rates[:11] == sorted(rates[:11]) and rates[10] == pytest.approx(1)
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 0.01
    assert schedule(warmup=0.0).rate(0) == 1


def test_one_step_is_adamw_on_clipped_gradients(scratch):
    ours, plan = phase(steps=1, warmup=0.0, select="last", average=0.0, validate_every=1), schedule()
    objective = Regression(plan.batch)
    other = torch.optim.AdamW(objective.model.parameters(), lr=0.1, weight_decay=plan.weight_decay)
    ours.run(scratch, 4)
    from sigma.shared.seeding import seed_from

    torch.manual_seed(seed_from(0, "dropout", "toy", 0) % 2**63)
    objective.loss(objective.rows(0), 0, 0, 4)[0].backward()
    nn.utils.clip_grad_norm_(objective.model.parameters(), plan.clip)
    other.step()
    for found, expected in zip(weights(ours), objective.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize("stop", range(1, 10))
def test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_bit(scratch, tmp_path, select, stop):
    other = tmp_path / "other"
    other.mkdir()
    # Rates this large overshoot, so that the best weights are early ones, which the state must hold.
    whole, first, second = (phase(select=select) for _ in range(3))
    whole.rates = first.rates = second.rates = [0.3]
    expected = whole.run(Scratch(other), 4)
    assert select == "last" or expected.selected == 3
    first.objective.fail_at = stop
    with pytest.raises(KeyboardInterrupt):
        first.run(scratch, 4)
    saved = scratch.load()
    assert (saved is None) == (stop < 2)
    if saved:
        assert saved["step"] == stop // 2 * 2
        second.load_state(saved)
    found = second.run(scratch, 4)
    assert found == expected
    assert all(map(torch.equal, weights(second), weights(whole)))


def test_the_best_average_is_kept_or_the_last(scratch):
    best, last = phase(select="best", steps=12), phase(select="last", steps=12)
    # Rates this large overshoot, so that the best is not the last.
    best.rates = last.rates = [3.0]
    found, ended = best.run(scratch, 4), last.run(scratch, 4)
    values = {int(point["step"]): point["value"] for point in found.curve.validation}
    assert list(values) == [3, 6, 9, 12]
    assert (found.validation, found.selected) == min((value, step) for step, value in values.items())
    assert ended.selected == 12 and ended.validation == values[12] and found.selected != 12
    assert best.objective.validate(4) == found.validation
    assert last.objective.validate(4) == ended.validation


def test_what_is_kept_is_an_average_whose_memory_grows(scratch):
    one = phase(select="last", average=0.9)
    averages, decays = weights(one), []
    optimize = one._optimize

    def followed():
        value = optimize()
        decay = min(0.9, (one.step + 1) / (one.step + 10))
        decays.append(decay)
        for average, live in zip(averages, weights(one), strict=True):
            average.copy_(decay * average + (1 - decay) * live)
        return value

    one._optimize = followed
    one.run(scratch, 4)
    assert decays == sorted(decays) and decays[0] == pytest.approx(0.1)
    for found, expected in zip(weights(one), averages, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_validation_leaves_the_live_weights_in_place(scratch):
    often, seldom = phase(validate_every=1, select="last"), phase(validate_every=10, select="last")
    often.run(scratch, 4)
    seldom.run(scratch, 4)
    assert all(map(torch.equal, weights(often), weights(seldom)))


def test_micro_batches_add_up_to_the_large_batch(scratch):
    parts, whole = phase(batch=2, accumulation=3), phase(batch=6)
    for one in (parts, whole):
        one.objective.loss = lambda rows, step, part, total, one=one.objective: (
            ((one.model(one.inputs[rows]) - one.targets[rows]).square().sum() / total),
            {},
        )
        one.objective.after_step = lambda: None
        one.run(scratch, 4)
    for found, expected in zip(weights(parts), weights(whole), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert parts.curve.train[0]["loss"] == pytest.approx(whole.curve.train[0]["loss"], rel=1e-5)


def test_a_loss_that_is_not_finite_ends_in_one_clear_line(scratch):
    one = phase()
    one.objective.broken = True
    with pytest.raises(SigmaError, match=r"toy: the loss is not finite at step 0; lower train\.learning_rate"):
        one.run(scratch, 4)
    other = phase()
    other.objective.validate = lambda batch: math.nan
    with pytest.raises(SigmaError, match="validation error is not finite at step 3"):
        other.run(scratch, 4)


@pytest.mark.parametrize("blind", [False, True])
def test_every_part_but_the_first_is_read_ahead_while_the_one_before_is_computed(scratch, blind):
    one = phase(batch=2, accumulation=3, steps=4)
    one.objective.blind = blind
    one.run(scratch, 4)
    taken = one.objective.taken
    assert [(step, start) for step, start, _ in taken] == [(step, start) for step in range(4) for start in (0, 2, 4)]
    expected = taken[1:] if not blind else [part for part in taken if part[1]]
    assert one.objective.read == expected, "a part's rows are those that its loss then takes"


def test_throughput_and_memory_are_noted_at_every_validation_and_never_compared(scratch, tmp_path):
    (tmp_path / "other").mkdir()
    results = [phase().run(place, 4) for place in (scratch, Scratch(tmp_path / "other"))]
    assert results[0] == results[1]
    for result in results:
        assert [point["step"] for point in result.speed] == [3, 6, 9, 10]
        assert all(point["windows_per_second"] > 0 and point["peak_memory_mib"] > 50 for point in result.speed)
