"""The closed loop of a base writes numbers that a reader can check, for trained and for random weights."""

import json

import pytest

from sigma.commands import closed_loop
from tests.bases import write_tiny_base

pytestmark = pytest.mark.render


def test_success_and_progress_are_written_for_both_sets_of_weights(tmp_path, monkeypatch):
    import sigma.simulation.rollout as rollout

    seen = []
    original = rollout.run_rollouts

    def short(policy, task, seeds, n_action_steps):
        seen.append((task, list(seeds), n_action_steps))
        return original(policy, task, seeds, n_action_steps, max_steps=8)

    monkeypatch.setattr(rollout, "run_rollouts", short)
    output = tmp_path / "metrics.json"
    line = closed_loop.run(
        base=write_tiny_base(tmp_path / "base"),
        output=output,
        tasks=["reach", "pick_place"],
        seeds=2,
        first_seed=5,
        execute=4,
        samples=1,
    )
    figures = json.loads(output.read_text())
    assert seen == [(task, [5, 6], 4) for task in ("reach", "pick_place")] * 2
    assert figures["seeds"] == 2
    for weights in ("trained", "random"):
        assert set(figures[weights]) == {"reach", "pick_place"}
        for one in figures[weights].values():
            assert 0 <= one["low"] <= one["success"] <= one["high"] <= 1
            assert 0 <= one["progress"] <= 1
    assert "reach" in line
