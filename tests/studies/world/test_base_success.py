"""The closed loop of a base writes numbers that a reader can check, for trained and for random weights."""

import dataclasses
import json

import pytest

from sigma.shared.errors import SigmaError
from sigma.studies.world import base_success as closed_loop
from tests.bases import write_tiny_base

pytestmark = pytest.mark.render


def play(folder, **changes):
    options = {"tasks": ["reach", "pick_place"], "seeds": 2, "first_seed": 5, "execute": 4, "samples": 1} | changes
    return closed_loop.run(base=folder / "base", output=folder / "metrics.json", **options)


@pytest.mark.simulator
def test_success_and_progress_are_written_for_both_sets_of_weights(tmp_path, monkeypatch):
    import sigma.simulation.rollout as rollout

    write_tiny_base(tmp_path / "base")
    seen = []
    original = rollout.run_rollouts

    def short(policy, seeds, spec, crew):
        seen.append((spec.task, list(seeds), spec.n_action_steps, policy.rows))
        return original(policy, seeds, dataclasses.replace(spec, max_steps=8), crew=crew)

    monkeypatch.setattr(rollout, "run_rollouts", short)
    line = play(tmp_path)
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert seen == [(task, [5, 6], 4, 2) for task in ("reach", "pick_place")] * 2
    assert figures["seeds"] == 2
    for weights in ("trained", "random"):
        assert set(figures[weights]) == {"reach", "pick_place"}
        for one in figures[weights].values():
            assert 0 <= one["success_lo"] <= one["success"] <= one["success_hi"] <= 1
            assert one["episodes"] == 2 and 0 <= one["progress"] <= 1
    assert "reach" in line


def test_an_unknown_task_is_refused_before_the_base_is_read(tmp_path):
    with pytest.raises(SigmaError, match="'stack' does not exist"):
        play(tmp_path, tasks=["reach", "stack"])
