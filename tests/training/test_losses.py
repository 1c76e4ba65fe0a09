"""Losses against the same equations written again in NumPy and SciPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import logsumexp

from sigma.parameters.training import LossParameters, TrafParameters
from sigma.policy.model.telepathy import TelepathyState
from sigma.training import losses
from sigma.training.losses import (
    HardWindows,
    NoiseLevels,
    Term,
    TermInputs,
    curriculum,
    intent_telepathy_loss,
    memory_text_loss,
    plan_error,
    tau_norm_loss,
    weighted_terms,
    window_worth,
)

BATCH, HORIZON, JOINTS = 5, 8, 6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_error_is_the_mean_square_over_valid_steps_and_scored_joints():
    plan, action = random(BATCH, HORIZON, JOINTS), random(BATCH, HORIZON, JOINTS, seed=3)
    valid = torch.ones(BATCH, HORIZON, dtype=torch.bool)
    valid[1, 5:], valid[2, 1:], valid[3] = False, False, False
    joints = torch.tensor([True, True, False, True, True, True])
    errors = plan_error(plan, action, valid, joints)
    for row in range(BATCH):
        squares = [
            (plan[row, step, joint] - action[row, step, joint]).item() ** 2
            for step in range(HORIZON)
            for joint in range(JOINTS)
            if valid[row, step] and joints[joint]
        ]
        # A window without any valid step costs nothing.
        assert errors[row].item() == pytest.approx(np.mean(squares or [0.0]), rel=1e-5)
    junk = torch.where(valid[..., None] & joints, plan, 1e9)
    assert torch.equal(plan_error(junk, action, valid, joints), errors)


TIMES = hnp.arrays(np.float64, (12, 3), elements=st.floats(0.001, 1.0))
LOSSES = hnp.arrays(np.float64, (12, 3), elements=st.floats(1e-3, 1e3))
SCALES = hnp.arrays(np.float64, (NoiseLevels.BINS,), elements=st.floats(1e-4, 1e4))


def bin_of(time: float) -> int:
    """Ten bins of a tenth each; the last one holds its end too."""
    return min(int(time * 10), 9)


@settings(deadline=None)
@given(TIMES, LOSSES, st.floats(0, 0.99))
def test_noise_levels_are_moving_averages_by_time(times, values, decay):
    levels, means = NoiseLevels(decay), {}
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        levels.update(values[part], times[part])
        fresh = {}
        for time, value in zip(times[part].ravel(), values[part].ravel(), strict=True):
            fresh.setdefault(bin_of(time), []).append(value)
        for number, seen in fresh.items():
            mean = float(np.mean(seen))
            means[number] = decay * means[number] + (1 - decay) * mean if number in means else mean
    np.testing.assert_allclose(levels.means, [means.get(number, np.nan) for number in range(10)], rtol=1e-9)


@settings(deadline=None)
@given(TIMES, LOSSES, SCALES, st.floats(0, 0.99))
def test_the_noise_level_is_divided_out(times, values, scales, decay):
    """Whatever a time costs more than another, a window's relative error stays what it was."""
    plain, scaled = NoiseLevels(decay), NoiseLevels(decay)
    harder = values * scales[np.vectorize(bin_of)(times)]
    for part in (slice(0, 4), slice(4, 12)):
        plain.update(values[part], times[part])
        scaled.update(harder[part], times[part])
    np.testing.assert_allclose(scaled.relative(harder, times), plain.relative(values, times), rtol=1e-9)


def test_a_relative_error_is_a_mean_over_draws_of_ratios_and_one_where_no_draw_has_fallen_yet():
    levels = NoiseLevels(0.5)
    levels.update(np.array([[2.0, 8.0]]), np.array([[0.05, 0.95]]))
    found = levels.relative(np.array([[4.0, 4.0], [1.0, 77.0]]), np.array([[0.01, 0.99], [0.05, 0.5]]))
    assert found.tolist() == [(4 / 2 + 4 / 8) / 2, (1 / 2 + 1) / 2]


def table(windows: int = 20, top_k: float = 0.25, focus: float = 0.4, decay: float = 0.8) -> HardWindows:
    return HardWindows(np.ones(windows), top_k, focus, decay)


def test_hard_windows_are_those_above_the_quantile_and_weights_have_mean_one():
    hard, errors = table(), np.random.default_rng(0).random(20)
    hard.update(np.arange(20), errors)
    expected = errors > np.sort(errors)[14]
    assert (hard.hard() == expected).all() and expected.sum() == 5
    weights = hard.weights()
    assert weights.mean() == pytest.approx(1)
    assert weights[expected].sum() / weights.sum() == pytest.approx(0.4)
    assert len(set(weights[expected])) == len(set(weights[~expected])) == 1


def test_nothing_is_hard_before_every_window_was_seen_nor_with_traf_off():
    hard = table()
    hard.update(np.arange(19), np.arange(19.0))
    assert not hard.hard().any() and (hard.weights() == 1).all() and not hard.known
    hard.update(np.array([19]), np.array([100.0]))
    assert hard.hard()[19] and hard.known
    off = table(top_k=0.0)
    off.update(np.arange(20), np.arange(20.0))
    assert (off.weights() == 1).all()
    equal = table()
    equal.update(np.arange(20), np.ones(20))
    assert (equal.weights() == 1).all()


def test_the_table_is_a_moving_average_and_the_split_of_a_step_cannot_change_it():
    hard = table(windows=4, decay=0.8)
    hard.update(np.array([0, 1, 2, 3]), np.array([1.0, 2.0, 3.0, 4.0]))
    hard.update(np.array([1]), np.array([12.0]))
    np.testing.assert_allclose(hard.errors, [1, 0.8 * 2 + 0.2 * 12, 3, 4])
    hard.update(np.array([0, 2, 0]), np.array([3.0, 5.0, 7.0]))
    np.testing.assert_allclose(hard.errors[[0, 2]], [0.8 * 1 + 0.2 * 5, 0.8 * 3 + 0.2 * 5])
    shuffled = table(windows=4, decay=0.8)
    shuffled.update(np.array([3, 1, 0, 2]), np.array([4.0, 2.0, 1.0, 3.0]))
    shuffled.update(np.array([1]), np.array([12.0]))
    shuffled.update(np.array([0, 0, 2]), np.array([7.0, 3.0, 5.0]))
    np.testing.assert_array_equal(shuffled.errors, hard.errors)


def test_the_curriculum_rises_from_nothing_to_everything():
    assert [curriculum(progress, 0.2, 0.8) for progress in (0.0, 0.2, 0.8, 1.0)] == [0, 0, 1, 1]
    assert curriculum(0.5, 0.2, 0.8) == pytest.approx(0.5)
    assert curriculum(0.35, 0.2, 0.8) == pytest.approx((1 - np.cos(np.pi / 4)) / 2)
    values = [curriculum(progress, 0.2, 0.8) for progress in np.linspace(0, 1, 101)]
    assert values == sorted(values)
    assert [curriculum(progress, 0.5, 0.5) for progress in (0.49, 0.5)] == [0, 1]
    assert curriculum(0.0, 0.0, 0.0) == 1


def contrast(semantic, text, bank, temperature) -> float:
    """The contrastive loss once more, window by window."""
    values = []
    for g, own in zip(semantic.double().numpy(), text.double().numpy(), strict=True):
        others = [
            other
            for other in bank.double().numpy()
            if other @ own / np.linalg.norm(other) / np.linalg.norm(own) < 1 - 1e-5
        ]
        logits = [e @ g / np.linalg.norm(e) / np.linalg.norm(g) / temperature for e in (own, *others)]
        values.append(logsumexp(logits) - logits[0])
    return float(np.mean(values))


def test_the_contrast_equals_its_equation_and_leaves_out_the_windows_own_text():
    semantic, bank = random(BATCH, 24), random(7, 24, seed=1)
    text = bank[torch.tensor([0, 1, 1, 2, 6])] * torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0])[:, None]
    for temperature in (0.1, 1.0):
        found = memory_text_loss(semantic, text, bank, temperature)
        assert found.item() == pytest.approx(contrast(semantic, text, bank, temperature), rel=1e-4)
    stranger = random(BATCH, 24, seed=9)
    assert memory_text_loss(semantic, stranger, bank, 0.5).item() == pytest.approx(
        contrast(semantic, stranger, bank, 0.5), rel=1e-4
    )


def test_the_contrast_falls_as_memory_turns_to_its_instruction_and_is_finite_without_another():
    bank = random(7, 24, seed=1)
    text = bank[:BATCH]
    semantic = random(BATCH, 24).requires_grad_(True)
    assert memory_text_loss(text, text, bank, 0.1) < memory_text_loss(semantic, text, bank, 0.1)
    alone = memory_text_loss(semantic, bank[:1].expand(BATCH, -1), bank[:1], 0.1)
    alone.backward()
    assert alone.item() == 0 and torch.isfinite(semantic.grad).all()


def test_intent_alignment_is_one_minus_the_cosine_and_moves_the_intent_alone():
    view, factors = random(BATCH, 3, 4).requires_grad_(True), random(BATCH, 3, 4, seed=1).requires_grad_(True)
    loss = intent_telepathy_loss(view, factors)
    a, b = (part.detach().flatten(1).numpy() for part in (view, factors))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert loss.item() == pytest.approx((1 - cosine).mean(), rel=1e-5)
    loss.backward()
    assert view.grad.any() and factors.grad is None


def test_the_norm_costs_nothing_within_the_band_and_its_relative_square_outside():
    factors = random(BATCH, 3, 4)
    factors = factors / factors.flatten(1).norm(dim=1)[:, None, None]
    norms = torch.tensor([2.0, 1.8, 2.2, 2.5, 1.0])[:, None, None]
    expected = np.mean([0, 0, 0, 0.15**2, 0.4**2])
    assert tau_norm_loss(factors * norms, 2.0, 0.1).item() == pytest.approx(expected, rel=1e-4)
    assert tau_norm_loss(factors * norms, 2.0, 0.6).item() == 0
    zero = torch.zeros(2, 3, 4, requires_grad=True)
    tau_norm_loss(zero, 2.0, 0.1).backward()
    assert torch.isfinite(zero.grad).all()


def test_the_terms_are_weighted_ramped_and_reported():
    width = {"semantic": random(BATCH, 24), "memory": random(BATCH, 3), "intent": random(BATCH, 3)}
    factors = {name: random(BATCH, 3, 4, seed=seed) for seed, name in enumerate(("factors", "intent_view"))}
    telepathy = TelepathyState(**width, **factors, alignment=random(BATCH))
    text, bank, forgetting = random(BATCH, 24, seed=2), random(6, 24, seed=3), random(BATCH, seed=4).square()
    tsac = dict(memory_text=0.3, intent_telepathy=0.5, start=0.0, end=1.0, temperature=0.1, bank=["lift the cube"])
    traf = dict(correction=1.0, before=0.0, autonomous=1.0, top_k=0.25, focus=0.4, decay=0.8)
    loss = LossParameters(vec=0.0, chk=0.0, trj=1.0, recall=0.9, tau=0.7, tau_band=0.1, traf=traf, tsac=tsac)
    for ramp in (0.0, 0.4, 1.0):
        total, terms = weighted_terms(TermInputs(telepathy, forgetting, text, bank, 1.0, loss), ramp)
        expected = ramp * (0.3 * terms["memory_text"] + 0.5 * terms["intent_telepathy"])
        expected = expected + 0.9 * terms["recall"] + 0.7 * terms["tau"]
        assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert terms["memory_text"] == memory_text_loss(telepathy.semantic, text, bank, 0.1)
    assert terms["intent_telepathy"] == intent_telepathy_loss(telepathy.intent_view, telepathy.factors)
    assert terms["recall"] == forgetting.mean()
    assert terms["tau"] == tau_norm_loss(telepathy.factors, 1.0, 0.1) and terms["tau"] > 0


def test_a_new_term_is_a_row_of_the_table(monkeypatch):
    inputs = SimpleNamespace(telepathy=SimpleNamespace(factors=random(BATCH, 3, 4)), tau_norm=1.0, loss=None)
    terms = {name: Term(lambda given: given.telepathy.factors.mean(), lambda loss: 2.0) for name in ("first", "second")}
    monkeypatch.setattr(losses, "ALIGNMENTS", {"first": terms["first"]})
    monkeypatch.setattr(losses, "CONTROLS", {"second": terms["second"]})
    total, values = weighted_terms(inputs, 0.5)
    assert total == 0.5 * 2 * values["first"] + 2 * values["second"]


def test_a_correction_counts_more_and_what_led_to_it_nothing():
    traf = TrafParameters(correction=3.0, before=1.5, autonomous=0.5, top_k=0.25, focus=0.4, decay=0.8)
    #         demonstration, person acts, 1.4 s before, 1.5 s before, nobody takes over
    waits = np.array([np.nan, 0.0, 1.4, 1.5, np.inf])
    person = np.array([False, True, False, False, False])
    assert window_worth(person, waits, traf).tolist() == [1.0, 3.0, 0.0, 0.5, 0.5]


def test_worth_and_focus_multiply_and_weights_have_mean_one():
    worth = np.array([1.0, 4.0, 1.0, 4.0])
    hard = HardWindows(worth, 0.25, 0.5, 0.8)
    np.testing.assert_allclose(hard.weights(), worth / 2.5)
    hard.update(np.arange(4), np.array([0.1, 0.2, 0.3, 0.9]))
    relative = worth * np.array([0.5 / 0.75] * 3 + [0.5 / 0.25])  # the quarter that is hard has half of the weight
    np.testing.assert_allclose(hard.weights(), relative / relative.mean())
