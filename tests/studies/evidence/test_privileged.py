"""The recorded episodes simulated again: to the bit those of the recorder, with what only the simulator knows."""

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.seeding import seed_from
from sigma.simulation.milestones import near
from sigma.simulation.model import CUBE_HALF
from sigma.simulation.record import attempt, demonstration, recorded_scenario
from sigma.simulation.scene import World
from sigma.simulation.tasks import TARGET, task_named
from sigma.studies.evidence import privileged
from sigma.studies.evidence.privileged import at_steps, phase_names, privileged_labels, resimulate

SEED, NOISE = 7, 1.5


@pytest.fixture(scope="module")
def recorded():
    """Stored frames of episodes 0 and 3, every eighth step."""
    episodes = {index: demonstration(TARGET, SEED, index, NOISE, (), 96) for index in (0, 3)}
    rows = [(index, step) for index, found in episodes.items() for step in range(0, len(found.states), 8)]
    states = np.stack([episodes[index].states[step] for index, step in rows])
    number, step = np.array(rows).T
    return episodes, number, step, states


def labels(number, step, states, **changes):
    options = {"name": TARGET, "seed": SEED, "noise": NOISE, "tolerance": 1e-3, "source": "embedded.yaml: simulate"}
    return privileged_labels(number, step, states, **options | changes)


@pytest.mark.simulator
def test_states_are_those_of_the_recorder_and_the_task_is_done_in_the_end(recorded):
    episodes, number, step, states = recorded
    truths = labels(number, step, states)
    assert set(truths) == {0, 3}
    for index, truth in truths.items():
        np.testing.assert_array_equal(truth.states, episodes[index].states)
        assert len(truth.cube) == len(truth.phase) == len(truth.states)
        assert truth.phase[0] == 0 and (np.diff(truth.phase) >= 0).all()
        assert truth.phase[-1] == len(task_named(TARGET).milestones), "a recording ends after the last milestone"
        scenario = task_named(TARGET).scenario(seed_from("record", TARGET, SEED, index, 0))
        np.testing.assert_allclose(truth.cube[0], (*scenario.layout.cube[:2], CUBE_HALF), atol=2e-3)
        lifted = truth.phase >= 3
        assert truth.cube[~lifted, 2].min() > 0 and truth.cube[:, 2].max() > 0.045


@pytest.mark.simulator
def test_a_label_holds_when_its_state_was_measured_not_a_step_later(recorded):
    _, number, step, states = recorded
    seen = []

    class Noting(World):
        def state(self):
            seen.append((self.cube_position, near(self, None)))
            return super().state()

    address, scenario = recorded_scenario(TARGET, SEED, 3, 0)
    attempt(Noting(), TARGET, address, scenario, NOISE, (), 96)
    truth = labels(number, step, states)[3]
    np.testing.assert_array_equal(truth.cube, [cube for cube, _ in seen])
    # The first milestone is passed where the gripper first comes near; at the first state nothing was followed yet.
    first = next(index for index, (_, reached) in enumerate(seen) if reached and index > 0)
    assert np.flatnonzero(truth.phase)[0] == first


@pytest.mark.simulator
def test_labels_are_looked_up_by_episode_and_step(recorded):
    _, number, step, states = recorded
    truths = labels(number, step, states)
    found = at_steps(truths, np.array([3, 0]), np.array([16, 0]))
    np.testing.assert_array_equal(found["cube"], [truths[3].cube[16], truths[0].cube[0]])
    assert found["phase"].tolist() == [truths[3].phase[16], 0]


def test_failed_attempts_are_passed_over_as_the_recorder_does(monkeypatch):
    original = privileged.attempt

    def first_fails(world, name, address, *rest):
        return None if address == seed_from("record", TARGET, SEED, 0, 0) else original(world, name, address, *rest)

    monkeypatch.setattr(privileged, "attempt", first_fails)
    truth = resimulate(privileged._Watched(), TARGET, SEED, 0, NOISE)
    other = privileged._Watched()
    address, scenario = recorded_scenario(TARGET, SEED, 0, 1)
    other.watch(TARGET, scenario)
    np.testing.assert_array_equal(truth.states, original(other, TARGET, address, scenario, NOISE, (), 96).states)


@pytest.mark.simulator
@pytest.mark.parametrize("changes", [{"seed": 8}, {"noise": 1.4}, {"name": "lift"}])
def test_another_recording_is_refused_in_one_line(recorded, changes):
    _, number, step, states = recorded
    with pytest.raises(SigmaError, match=r"embedded\.yaml: simulate: episode 0 .* diagnose\.recording null") as error:
        labels(number, step, states, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.simulator
def test_a_state_beyond_the_tolerance_is_refused_and_one_within_is_not(recorded):
    _, number, step, states = recorded
    labels(number, step, states + np.float32(5e-4))
    with pytest.raises(SigmaError, match=r"episode 3 .* by 0\.05"):
        labels(number, step, np.where((number == 3)[:, None], states + np.float32(0.05), states))


def test_phases_are_named_after_milestones():
    assert phase_names(TARGET)[:3] == ("start", "near", "grasped")
