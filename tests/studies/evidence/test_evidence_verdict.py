"""The evidence page's first line on made-up results: all beaten, none, mixed, and without a closed loop."""

import pytest

from sigma.studies.evidence.evidence_verdict import listed, percent, verdict
from sigma.studies.rollout.rollout_results import ArmResult, ClosedLoop, Kept, Paired, TaskResult

ROWS = ("plain_lora_sample", "plain_lora_zero_noise", "plain_lora_mean", "residual_mlp", "direct")
BETTER, OPEN, WORSE = (-0.03, -0.04, -0.02), (-0.01, -0.03, 0.01), (0.02, 0.01, 0.03)


def results(rows=ROWS, episodes=50, **changes):
    """``metrics/ablation.json`` in which Sigma is better everywhere (its error 0.17, others' 0.20) but for ``changes``:
    a row, or ``row__critical``, to (delta, lo, hi)."""
    table = {"sigma": {"confirmatory": True, "mse_plan": {"mean": 0.17, "seeds": {"0": 0.1, "1": 0.2, "2": 0.2}}}}
    table["sigma"]["mse_plan_critical"] = table["sigma"]["mse_plan"]
    for row in rows:
        table[row] = {"confirmatory": True}
        for claim, key in (("mse_plan", row), ("mse_plan_critical", f"{row}__critical")):
            delta, low, high = changes.get(key, BETTER)
            table[row][claim] = {"mean": 0.2, "delta": delta, "delta_lo": low, "delta_hi": high, "p": 0.01}
    counts = {"windows": 169, "episodes": episodes, "critical_windows": 120, "critical_episodes": episodes}
    return {"test": {**counts, "rows": table}}


def rates(**success):
    return {arm: ArmResult(share, share - 0.05, share + 0.05, None, 200) for arm, share in success.items()}


def loop(arms=None, paired=None, reach=0.80, lift=0.79, kept=None):
    """A closed loop in which Sigma solves half of the target and the frozen base 80 % of its own tasks."""
    arms = arms or {"plain_lora_sample": 0.3, "plain_lora_mean": 0.37, "residual_mlp": 0.4, "direct": 0.41}
    paired = paired or {arm: Paired(0.5 - share, None, None, 0.0004) for arm, share in arms.items()}
    tasks = {
        "pick_place": TaskResult(rates(sigma=0.5, base=0.1, **arms), paired),
        "reach": TaskResult(rates(sigma=reach, base=0.8), {}),
        "lift": TaskResult(rates(sigma=lift, base=0.8), {}),
    }
    return ClosedLoop(tasks, {}, kept or {})


def say(ablation, closed_loop=None):
    return verdict(ablation, closed_loop, target="pick_place", margin=3.0).replace("\u00a0", " ")


def test_all_beaten_offline_and_in_closed_loop():
    assert say(results(), loop()) == (
        "Offline (169 windows of 50 test episodes, 3 training seeds) Sigma beats every confirmatory arm, plain LoRA "
        "(mse_plan −15.0 %, critical intervals −15.0 %), residual MLP (mse_plan −15.0 %, critical intervals −15.0 %) "
        "and direct regressor (mse_plan −15.0 %, critical intervals −15.0 %), each with a 95 % interval that excludes "
        "zero. In closed loop (pick_place, 200 episodes) it succeeds in 50 %: more often than plain LoRA (37 %, "
        "McNemar p < 0.001), residual MLP (40 %, McNemar p < 0.001) and direct regressor (41 %, McNemar p < 0.001); it "
        "keeps each of the base's own tasks within 3 points of the frozen π0.5 (least: lift −1.0)."
    )


def test_none_beaten_and_the_own_tasks_lost():
    open_rows = {key: OPEN for row in ROWS for key in (row, f"{row}__critical")}
    paired = {arm: Paired(0.02, None, None, 0.6) for arm in ("plain_lora_sample", "residual_mlp", "direct")}
    told = say(
        results(**open_rows),
        loop(dict.fromkeys(paired, 0.48), paired, lift=0.7, kept={"sigma": Kept(-0.05, -0.1, 0.0)}),
    )
    assert "Sigma beats no confirmatory arm; it is not shown to beat plain LoRA (mse_plan −5.0 %, critical" in told
    assert "each with a 95 % interval" not in told and "more often than plain" not in told.split("not shown")[0]
    assert "it succeeds in 50 %: not shown to be more often than plain LoRA (48 %, McNemar p = 0.600), residual" in told
    assert told.endswith(
        "it does not keep the base's own tasks within 3 points of the frozen π0.5 (mean −5.0, −10.0 to 0.0; lift "
        "−10.0)."
    )


def test_mixed_results_name_arm_and_measure():
    ablation = results(residual_mlp=WORSE, residual_mlp__critical=OPEN, direct__critical=OPEN)
    paired = {
        "plain_lora_sample": Paired(0.2, None, None, 0.001),
        "plain_lora_mean": Paired(0.13, None, None, 0.06),
        "residual_mlp": Paired(-0.2, None, None, 0.01),
    }
    told = say(ablation, loop({"plain_lora_sample": 0.3, "plain_lora_mean": 0.37, "residual_mlp": 0.7}, paired))
    assert (
        "Sigma beats plain LoRA (mse_plan −15.0 %, critical intervals −15.0 %) and direct regressor (mse_plan −15.0 %)"
        in told
    )
    assert "; it is not shown to beat residual MLP (critical intervals −5.0 %) and direct regressor (critical" in told
    assert "; it is beaten by residual MLP (mse_plan +10.0 %)." in told
    assert "not shown to be more often than plain LoRA (37 %, McNemar p = 0.060)" in told
    assert "less often than residual MLP (70 %, McNemar p = 0.010); not compared with direct regressor" in told


def test_every_decoding_of_plain_lora_has_to_be_beaten():
    told = say(results(plain_lora_mean=OPEN))
    assert "Sigma beats plain LoRA (critical intervals −15.0 %), residual MLP (mse_plan" in told
    assert "it is not shown to beat plain LoRA (mse_plan −5.0 %)" in told
    assert "it is beaten by plain LoRA (mse_plan +10.0 %)" in say(results(plain_lora_zero_noise=WORSE))


def test_without_a_closed_loop_nothing_is_said_of_success():
    told = say(results())
    assert told.endswith("excludes zero. The closed loop was not run: nothing is known of success.")


def test_an_arm_that_was_not_trained_is_named_and_never_counted_as_beaten():
    told = say(results(rows=ROWS[:-1]))
    assert "every" not in told and "; direct regressor was not trained." in told
    assert "no confirmatory arm was trained" in say(results(rows=()))


def test_sigmas_other_branch_is_no_opponent():
    assert say(results(rows=(*ROWS, "sigma_frozen"), sigma_frozen=WORSE)) == say(results())


def test_one_episode_shows_nothing():
    assert "Sigma beats no confirmatory arm" in say(results(episodes=1))


def test_a_loss_of_just_the_margin_is_within_it_and_missing_tasks_are_said_to_be_missing():
    assert "keeps each of the base's own tasks within 3 points" in say(results(), loop(lift=0.77))
    assert "(lift −3.5)" in say(results(), loop(lift=0.765))
    alone = ClosedLoop({"pick_place": loop().tasks["pick_place"]}, {}, {})
    assert say(results(), alone).endswith("; the base's own tasks were not rolled out.")
    assert "The closed loop has no sigma on pick_place" in say(results(), ClosedLoop({}, {}, {}))


@pytest.mark.parametrize(
    "value, text", [(0.04, "0.0"), (-0.04, "0.0"), (1.25, "+1.2"), (-3.0, "−3.0"), (12.0, "+12.0")]
)
def test_percentages_are_signed_unless_they_round_to_zero(value, text):
    assert percent(value) == f"{text}\u00a0%"


def test_lists_read_as_english():
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_a_harder_setting_is_told_where_it_decides():
    arms = {"plain_lora_sample": 0.3, "plain_lora_mean": 0.37, "residual_mlp": 0.7, "direct": 0.45}
    paired = {
        "plain_lora_sample": Paired(0.2, None, None, 0.001),
        "plain_lora_mean": Paired(0.13, None, None, 0.02),
        "residual_mlp": Paired(-0.2, None, None, 0.01),
        "direct": Paired(0.05, None, None, 0.4),
    }
    decided = TaskResult(rates(sigma=0.5, base=0.1, **arms), paired)
    open_one = TaskResult(rates(sigma=0.5, direct=0.45), {"direct": paired["direct"]})
    settings = {"pick_place/often": decided, "pick_place/push": open_one, "lift/often": decided}
    told = say(results(), ClosedLoop(loop().tasks, settings, {}))
    assert told.endswith(
        " In harder settings, each by itself: often (50 %): more often than plain LoRA (37 %, McNemar p = 0.020) and "
        "less often than residual MLP (70 %, McNemar p = 0.010)."
    )
    without = say(results(), loop())
    assert told.startswith(without)
