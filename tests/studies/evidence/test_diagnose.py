"""``sigma diagnose`` on the small trained world, whose dataset the simulator did not make, and with made-up truths."""

import csv
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json, read_table, write_table
from sigma.shared.tables import from_table, to_table
from sigma.studies.evidence import diagnose
from sigma.studies.evidence.privileged import Truth
from tests.worlds import ROOT, World, inside

PICTURES = Path("stages/evidence/out/diagnostics")


def configure(world: World, recording: str = "null", folds: int = 2) -> None:
    world.configure({"report": {"resamples": 100}})
    (world.root / "stages/evidence").mkdir(parents=True, exist_ok=True)
    (world.root / "stages/evidence/params.yaml").write_text(
        f"diagnose:\n  recording: {recording}\n  state_tolerance: 0.001\n  folds: {folds}\n  episodes: 2\n  groups: 4\n"
        "evidence:\n  target: pick_place\n"
    )
    (world.root / "simulate.yaml").write_text("simulate:\n  target_seed: 7\n  noise: 1.5\n  size: 96\n")


def run(world: World) -> dict:
    with inside(world.root):
        params, output = Path("stages/evidence/params.yaml"), Path("metrics/diagnostics.json")
        diagnose.run(params=params, output=output, pictures=PICTURES)
        return read_json(output)


@pytest.fixture
def world(trained, tmp_path) -> World:
    return trained.copy(tmp_path / "diagnosed")


@pytest.mark.minutes
def test_a_dataset_from_elsewhere_gets_probes_of_instruction_and_position_only(each_branch, tmp_path):
    world = each_branch.copy(tmp_path / "diagnosed")
    configure(world)
    if each_branch.root.name == "adapted":
        world.configure({"report": {"resamples": 100}, "base": {"branch": "adapted"}, "train": {"flow_steps": 4}})
    digests = []
    for _ in range(2):
        found = run(world)
        digests.append(digest_folder(world.root / PICTURES))
    assert digests[0] == digests[1]
    assert found["simulated"] is False and set(found["probes"]) == {"instruction", "episode_position"}
    for probe in found["probes"].values():
        assert set(probe) == {"chance", "tau", "memory", "intent", "base", "base_history", "state"}
        for name in ("tau", "base", "state"):
            assert probe[name]["lo"] <= probe[name]["score"] <= probe[name]["hi"] <= 1.0
            assert ("delta" in probe[name]) == (name == "tau")
    assert set(found["risk"]) == {"vector", "chunk", "trajectory"}
    names = {file.name for file in (world.root / PICTURES).iterdir()}
    assert names == {"probes.svg", "episodes.svg", "reliability.svg", "reliability.csv"}
    for name in ("probes", "episodes", "reliability"):
        assert ElementTree.parse(world.root / PICTURES / f"{name}.svg").getroot().tag.endswith("svg")
    with open(world.root / PICTURES / "reliability.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["group"]) for row in rows] == [0, 1, 2, 3]
    assert sum(int(row["windows"]) for row in rows) == (world.shards.window_split == "test").sum()


@pytest.mark.simulator
def test_labels_of_the_simulator_are_probed_where_it_made_the_dataset(world, monkeypatch):
    configure(world, recording="simulate.yaml")
    shards, asked = world.shards, {}

    def truths(episodes, steps, states, **options):
        asked.update(options)
        np.testing.assert_array_equal(states, shards.frame_state)
        length = 40
        made = Truth(np.zeros((length, 6)), np.arange(length * 3.0).reshape(length, 3), np.arange(length) // 8)
        return dict.fromkeys(np.unique(episodes).tolist(), made)

    monkeypatch.setattr("sigma.studies.evidence.privileged.privileged_labels", truths)
    found = run(world)
    assert (asked["seed"], asked["noise"], asked["tolerance"]) == (7, 1.5, 0.001)
    assert found["simulated"] is True
    assert set(found["probes"]) == {"phase", "cube_position", "instruction", "episode_position"}


def test_a_phase_is_marked_where_it_begins():
    truth = Truth(np.zeros((6, 6)), np.zeros((6, 3)), np.array([0, 0, 1, 1, 3, 3]))
    marks = diagnose._phase_marks(truth, ("start", "near", "grasped", "lifted"), fps=10.0)
    assert marks == [(0.2, "near"), (0.4, "lifted")]


def test_inner_states_are_those_that_the_model_gives_each_window(world):
    from sigma.policy.adapter.adapter import SigmaTelepathyAdapter, read_calibration
    from sigma.studies.evidence.telepathy_replay import inner_states, trace

    material, vla = world.material(), world.vla()
    sigma = from_table(read_table(world.root / "data/predictions/sigma.parquet"))
    states = inner_states(vla, material, sigma["tau"], batch=16)
    rows = np.array([0, 17, 40])
    output = vla.decide(material.observation(rows), [("any", 0)] * 3)
    for name in ("memory", "intent"):
        np.testing.assert_allclose(states[name][rows], output[name].numpy(), atol=1e-5)
    file = world.root / "models/adapter_calibration.json"
    adapter = SigmaTelepathyAdapter(calibration=read_calibration(file))
    shards = world.shards
    episode = int(shards.window_episode[shards.window_split == "test"][0])
    found = trace(vla, material, adapter, file, episode)
    own = np.flatnonzero(shards.window_episode == episode)
    assert set(shards.window_step[own]) < set(found.steps), "finer than the windows"
    for row in own:
        (place,) = np.flatnonzero(found.steps == shards.window_step[row])
        for branch in ("vector", "chunk", "trajectory"):
            expected = np.sqrt((sigma[f"residual_{branch}"][row] ** 2).mean())
            assert found.corrections[branch][place] == pytest.approx(expected, abs=1e-5)


def test_a_model_that_did_not_make_the_predictions_is_refused(world):
    configure(world)
    path = world.root / "data/predictions/sigma.parquet"
    columns = from_table(read_table(path))
    write_table(path, to_table(columns | {"tau": columns["tau"] + np.float32(0.5)}))
    with pytest.raises(SigmaError, match=r"models/sigma: its factors are not those of data/predictions/sigma\.parquet"):
        run(world)
    assert not (world.root / PICTURES).exists() and not (world.root / "metrics/diagnostics.json").exists()


def test_another_recording_is_refused_before_the_model_runs(world, monkeypatch):
    configure(world, recording="simulate.yaml")
    monkeypatch.setattr("sigma.studies.evidence.telepathy_replay.inner_states", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(SigmaError, match=r"simulate\.yaml: simulate: episode 0 as simulated again differs"):
        run(world)


@pytest.mark.processes
def test_importing_the_command_loads_no_library_that_computes():
    code = (
        "import sys\nfrom sigma.studies.evidence import diagnose\n"
        "assert not {'torch', 'numpy', 'sklearn', 'mujoco', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, check=True)


def test_without_scikit_learn_the_line_says_so(world, monkeypatch):
    configure(world)
    monkeypatch.setattr(diagnose, "find_spec", lambda name: None)
    with pytest.raises(SigmaError, match="scikit-learn is not installed"):
        run(world)


def test_wrong_parameters_are_one_line(world):
    configure(world, folds=7)
    with pytest.raises(SigmaError, match=r"diagnose\.folds: found 7; legal: at most 6, the episodes"):
        run(world)
    configure(world, recording="simulate.yaml")
    (world.root / "simulate.yaml").write_text("simulate:\n  noise: 1.5\n")
    with pytest.raises(SigmaError, match=r"simulate\.yaml: simulate\.target_seed"):
        run(world)
    configure(world, recording="absent.yaml")
    with pytest.raises(SigmaError, match=r"absent\.yaml: not found"):
        run(world)
