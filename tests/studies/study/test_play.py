"""``sigma rollout`` and ``sigma study play`` on a small world, and what they refuse before they play."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest

from sigma.shared.errors import SigmaError
from sigma.simulation.episode import EpisodeSpec
from sigma.simulation.setting import Setting
from sigma.studies.study.cells.parameters import PARAMS
from sigma.studies.study.cells.workspace import model_folder
from sigma.studies.study.play import arm, rollout
from sigma.studies.study.play import play as play_module
from tests.studies.study.projects import PLAY, TASK, write_study
from tests.trained_arms import write_sigma
from tests.worlds import World, inside, merge

SMALL = {
    "seeds": [0, 1],
    "play": PLAY | {"settings": {"late": {"delay": 2}}},
    "tasks": {TASK: {"task": "reach", "base_tasks": ["lift"]}},
}


def test_a_gate_is_told_where_a_late_first_plan_led():
    class Told:
        def __init__(self):
            self.heard = []

        def reset(self, indices):
            pass

        def act(self, observations, indices):
            return np.arange(len(indices))[:, None, None] * 100 + np.arange(8)[None, :, None] + np.zeros((1, 1, 2))

        def follow(self, index, command, *, late):
            self.heard.append((index, command.tolist(), late))

    told = Told()
    for delay, heard in ((2, [1, 1]), (5, [7, 7])):
        late = play_module.LateFirstPlan(told, told, EpisodeSpec(TASK, 4, Setting(delay=delay)))
        for _ in range(2):
            told.heard = []
            late.reset([3])
            late.act([{"state": np.array([7, 7])}], [3])
            late.act([{"state": np.array([9, 9])}], [3])
            assert told.heard == [(3, heard, delay)]


@pytest.fixture
def short_episodes(monkeypatch):
    """A dozen control steps show what the command does; processes of their own do not see this."""
    import sigma.simulation.tasks as tasks

    for name, task in tasks.TASKS.items():
        monkeypatch.setitem(tasks.TASKS, name, type(task)(**vars(task) | {"max_steps": 12}))


@pytest.fixture
def world(trained, tmp_path) -> World:
    return trained.copy(tmp_path / "world")


def prepare(world: World, **changes) -> None:
    """A study whose task is to reach, played in the settings of ``changes`` alone."""
    section = merge(SMALL, changes)
    world.configure()
    write_study(world, replaced={"settings": section["play"]["settings"]}, **section)


def play(world: World, name: str, videos: bool = False, settings: tuple[str, ...] = (), **changes) -> str:
    prepare(world, **changes)
    with inside(world.root):
        out = world.root / "out"
        return rollout.run(
            task=TASK,
            arm=name,
            settings=list(settings),
            params=PARAMS,
            workspace=world.root,
            output=out / f"{name}.parquet",
            videos=out / "videos" if videos else None,
        )


@pytest.mark.simulator
@pytest.mark.render
def test_one_row_an_episode_with_its_videos_and_times(world, short_episodes):
    line = play(world, "sigma", videos=True)
    rows = pyarrow.parquet.read_table(world.root / "out/sigma.parquet").to_pylist()
    played = [(row["task"], row["setting"], row["seed"]) for row in rows]
    assert played == [("reach", "plain", seed) for seed in (40, 41, 42)] + [
        ("reach", "late", 40),
        ("reach", "late", 41),
        ("lift", "plain", 40),
        ("lift", "plain", 41),
    ]
    for row in rows:
        assert row["steps"] == 12 or row["success"]
        assert row["decisions"] == -(-row["steps"] // 4) and 0 <= row["milestones"] <= 3
        assert (row["failure"] is None) == row["success"]
        assert len(row["risk"]) == len(row["scale"]) == row["decisions"]
        assert (row["held_back"] is None) == (min(row["scale"]) >= 0.5)
    assert line.startswith(f"rollout: sigma: {TASK} {sum(row['success'] for row in rows[:3])} of 3, 7 episodes")
    assert (world.root / "out/videos/contact_sheet.png").is_file() and list((world.root / "out/videos").glob("*.mp4"))
    clocks = json.loads((world.root / "out/sigma.json").read_text())["played"]
    groups = [(one["arm"], one["task"], one["setting"], one["episodes"]) for one in clocks]
    assert groups == [("sigma", "reach", "plain", 3), ("sigma", "reach", "late", 2), ("sigma", "lift", "plain", 2)]
    for one in clocks:
        group = (one["task"], one["setting"])
        decided = sum(row["decisions"] for row in rows if (row["task"], row["setting"]) == group)
        # The policy's calls are a part of the time that its episodes take.
        assert one["decisions_per_second"] * one["seconds"] > 0.99 * decided > 0


@pytest.mark.simulator
@pytest.mark.render
def test_the_same_arm_again_gives_the_same_bytes_whatever_the_processes(world, monkeypatch):
    short = {"play": {"episodes": 2, "settings": {}}, "tasks": {TASK: {"base_tasks": []}}}
    file = world.root / "out/sigma.parquet"
    play(world, "sigma", **short)
    first = file.read_bytes()
    import tests.worlds as worlds

    monkeypatch.setitem(worlds.SMALL, "machine", merge(worlds.SMALL["machine"], {"workers": 2}))
    play(world, "sigma", **short)
    assert file.read_bytes() == first


@pytest.mark.simulator
@pytest.mark.render
def test_a_setting_may_have_decisions_of_its_own_length(world, short_episodes):
    play(world, "sigma", settings=("often",), play={"settings": {"late": {"delay": 1}, "often": {"n_action_steps": 2}}})
    rows = pyarrow.parquet.read_table(world.root / "out/sigma.parquet").to_pylist()
    assert {(row["task"], row["setting"]) for row in rows} == {("reach", "often")}, "what was asked for, and no more"
    assert all(row["decisions"] == -(-row["steps"] // 2) for row in rows)


@pytest.mark.simulator
@pytest.mark.render
@pytest.mark.minutes
def test_a_trained_arm_plays_at_every_seed_and_its_other_variants_the_plain_setting(world, short_episodes):
    prepare(world)
    for seed in (0, 1):
        write_sigma(world, world.root / model_folder(TASK, "sigma", seed), "sigma")
    with inside(world.root):
        line = arm.run(task=TASK, arm="sigma", settings="all", params=PARAMS, output=world.root / "out")
    assert line.startswith(f"play: sigma on {TASK}: ")
    assert sorted(path.name for path in (world.root / "out").iterdir()) == ["0", "1"]
    for seed in ("0", "1"):
        folder = world.root / "out" / seed
        rows = pyarrow.parquet.read_table(folder / "episodes.parquet").to_pylist()
        groups = list(dict.fromkeys((row["arm"], row["task"], row["setting"]) for row in rows))
        every = [("sigma", "reach", "plain"), ("sigma", "reach", "late"), ("sigma", "lift", "plain")]
        ungated = [("sigma_full_scale", "reach", "plain"), ("sigma_full_scale", "lift", "plain")]
        assert groups == [*every, *ungated, ("sigma_memory_reset", "reach", "plain")]
        names = {"predictions.parquet", "adapter_calibration.json", "adapter_calibration.safetensors"}
        assert {path.name for path in folder.iterdir()} == names | {"episodes.parquet", "episodes.json"}
    tables = [(world.root / "out" / seed / "episodes.parquet").read_bytes() for seed in ("0", "1")]
    assert tables[0] == tables[1], "the same model plays the same episodes"


def refused(world: World, match: str, arm: str = "base", **changes) -> None:
    with pytest.raises(SigmaError, match=match):
        play(world, arm, **changes)
    assert not (world.root / "out").exists()


def test_bad_input_is_one_line_before_anything_is_played(world, monkeypatch):
    import sigma.simulation.parallel as crew
    import sigma.simulation.tasks as tasks
    from sigma.simulation.instructions import Instruction

    def played(*_, **__):
        pytest.fail("episodes were played")

    monkeypatch.setattr(crew.EpisodePool, "begin", played)
    monkeypatch.setattr(crew, "check_renderer", lambda size=96: None)
    refused(world, "arm 'nobody' does not exist", arm="nobody")
    refused(world, r"play\.settings of pick_place: no 'rain'; legal: plain, late", settings=("rain",))
    refused(world, r"'stack' does not exist", tasks={TASK: {"base_tasks": ["stack"]}})
    refused(world, "n_action_steps: found 3; legal: divisors of 4", arm="sigma", play={"n_action_steps": 3})
    often = {"play": {"settings": {"often": {"n_action_steps": 3}}}}
    refused(world, "n_action_steps: found 3; legal: divisors of 4", arm="sigma", **often)
    late = {"play": {"settings": {"late": {"delay": 5}}}}
    gated = r"settings: late: delay: found 5; legal: 0 to 3, as sigma acts for 4 steps behind a gate"
    refused(world, gated, arm="sigma", **late)
    refused(world, r"found 5; legal: 0 to 4, as sigma_full_scale plans 8 steps", arm="sigma_full_scale", **late)
    monkeypatch.setitem(
        tasks.TASKS, "lift", replace(tasks.TASKS["lift"], instructions=(Instruction(("levitate it",)),))
    )
    refused(world, "does not know the word 'levitate'")
    given = {"task": TASK, "arm": "base", "settings": [], "params": PARAMS, "workspace": world.root}
    with inside(world.root), pytest.raises(SigmaError, match=r"out\.json: legal: a name that ends with \.parquet"):
        rollout.run(**given, output=world.root / "out.json", videos=None)
    (world.root / "holiday").mkdir()
    (world.root / "holiday/beach.mp4").write_text("x")
    with (
        inside(world.root),
        pytest.raises(SigmaError, match=r"--videos .*holiday: holds something else; legal: a folder"),
    ):
        rollout.run(**given, output=world.root / "out.parquet", videos=world.root / "holiday")


def test_without_a_renderer_nothing_is_loaded(world, monkeypatch):
    import mujoco

    import sigma.policy.pi05.base as base
    import sigma.simulation.scene as scene

    def broken(*_, **__):
        raise mujoco.FatalError("no GL")

    monkeypatch.setattr(mujoco, "Renderer", broken)
    monkeypatch.setattr(base, "load_strictly", lambda *_, **__: pytest.fail("weights were read"))
    scene._renderer.cache_clear()
    try:
        refused(world, "the simulator cannot render: no off-screen GL library")
    finally:
        scene._renderer.cache_clear()
