"""``sigma rollout`` end to end on a small world, and what it refuses before it plays."""

import json
from dataclasses import replace

import pyarrow.parquet
import pytest
from ruamel.yaml import YAML

from sigma.shared.errors import SigmaError
from sigma.simulation.setting import read_rollout
from sigma.studies.rollout import play as rollout
from sigma.studies.rollout import rollout_summary
from tests.worlds import ROOT, World, inside, merge

SHIPPED = YAML(typ="safe").load((ROOT / "stages/rollout/params.yaml").read_text(encoding="utf-8"))
SMALL = {
    "target": "reach",
    "episodes": 3,
    "base_tasks": ["lift"],
    "base_episodes": 2,
    "first_seed": 40,
    "n_action_steps": 4,
    "batch": 2,
    "settings_episodes": 1,
    "settings": {"late": {"delay": 2}},
    "videos": 1,
    "video_size": 48,
}


@pytest.fixture
def short_episodes(monkeypatch):
    """A dozen control steps show what the command does; processes of their own do not see this."""
    import sigma.simulation.tasks as tasks

    for name, task in tasks.TASKS.items():
        monkeypatch.setitem(tasks.TASKS, name, type(task)(**vars(task) | {"max_steps": 12}))


def play(world: World, arm: str, model=None, **changes) -> str:
    file = world.root / "rollout.yaml"
    section = {**SMALL, **changes}
    with open(file, "w", encoding="utf-8") as stream:
        YAML(typ="safe").dump({"rollout": section, "ablation": {"seed": 0}}, stream)
    world.configure()
    with inside(world.root):
        out = world.root / "out"
        return rollout.run(
            arm=arm, model=model, params=file, output=out / f"{arm}.parquet", videos=out / "videos" / arm
        )


@pytest.fixture
def world(trained, tmp_path) -> World:
    return trained.copy(tmp_path / "world")


@pytest.mark.simulator
@pytest.mark.render
def test_one_row_an_episode_with_videos_and_a_summary(world, short_episodes):
    for arm in ("expert", "base", "sigma"):
        play(world, arm)
    table = pyarrow.parquet.read_table(world.root / "out/sigma.parquet")
    rows = table.to_pylist()
    played = [(row["task"], row["setting"], row["seed"]) for row in rows]
    assert played == [("reach", "plain", seed) for seed in (40, 41, 42)] + [
        ("lift", "plain", 40),
        ("lift", "plain", 41),
        ("reach", "late", 40),
    ]
    for row in rows:
        assert row["steps"] == 12 or row["success"]
        assert row["decisions"] == -(-row["steps"] // 4) and 0 <= row["milestones"] <= 3
        assert (row["failure"] is None) == row["success"]
    videos = world.root / "out/videos/sigma"
    assert (videos / "contact_sheet.png").is_file() and list(videos.glob("*-4[0-2].mp4"))
    clock = json.loads((world.root / "out/sigma.json").read_text())
    assert clock["arm"] == "sigma"
    assert [(one["task"], one["setting"], one["episodes"]) for one in clock["played"]] == [
        ("reach", "plain", 3),
        ("lift", "plain", 2),
        ("reach", "late", 1),
    ]
    for one in clock["played"]:
        group = (one["task"], one["setting"])
        decided = sum(row["decisions"] for row in rows if (row["task"], row["setting"]) == group)
        # The policy's calls are a part of the time that its episodes take.
        assert one["decisions_per_second"] * one["seconds"] > 0.99 * decided > 0
    assert "seconds" not in json.dumps(table.schema.metadata[b"protocol"].decode())
    with inside(world.root):
        line = rollout_summary.run(
            tables=[world.root / f"out/{arm}.parquet" for arm in ("expert", "base", "sigma")],
            params=world.root / "rollout.yaml",
            output=world.root / "rollout.json",
        )
    found = json.loads((world.root / "rollout.json").read_text())
    assert set(found) == {"reach", "lift", "reach/late", "retention"} and line.startswith("rollout-summary: reach")
    speeds = {arm: scores.get("decisions_per_second") for arm, scores in found["reach/late"]["arms"].items()}
    assert speeds["expert"] is None and speeds["base"] > 0
    assert speeds["sigma"] == clock["played"][2]["decisions_per_second"]


@pytest.mark.simulator
@pytest.mark.render
def test_the_same_arm_again_gives_the_same_bytes_whatever_the_processes(world, monkeypatch):
    def files():
        found = {file.name: file.read_bytes() for file in (world.root / "out").rglob("*") if file.is_file()}
        assert found.pop("sigma.json")  # what the clock says
        return found

    short = {"episodes": 2, "base_tasks": [], "settings": {}, "batch": 2}
    play(world, "sigma", **short)
    first = files()
    import tests.worlds as worlds

    monkeypatch.setitem(worlds.SMALL, "machine", merge(worlds.SMALL["machine"], {"workers": 2}))
    play(world, "sigma", **short)
    assert files() == first


@pytest.mark.simulator
@pytest.mark.render
def test_a_setting_may_have_decisions_of_its_own_length(world, short_episodes):
    play(world, "sigma", episodes=1, base_tasks=[], settings={"often": {"n_action_steps": 2}})
    rows = pyarrow.parquet.read_table(world.root / "out/sigma.parquet").to_pylist()
    assert [row["setting"] for row in rows] == ["plain", "often"]
    for row, taken in zip(rows, (4, 2), strict=True):
        assert row["decisions"] == -(-row["steps"] // taken)


@pytest.mark.simulator
def test_the_table_keeps_apart_from_the_clocks_file(world):
    with inside(world.root), pytest.raises(SigmaError, match=r"out/base\.json: legal: a name that ends with \.parquet"):
        world.configure()
        output = world.root / "out/base.json"
        rollout.run(arm="base", model=None, params=ROOT / "stages/rollout/params.yaml", output=output, videos=output)


def refused(world: World, match: str, arm: str = "base", **changes) -> None:
    with pytest.raises(SigmaError, match=match):
        play(world, arm, **changes)
    assert not (world.root / "out").exists()


def test_bad_input_is_one_line_before_anything_is_played(world, monkeypatch):
    import sigma.simulation.parallel as crew
    import sigma.simulation.tasks as tasks
    from sigma.simulation.instructions import Instruction

    monkeypatch.setattr(crew.EpisodePool, "__enter__", lambda self: pytest.fail("episodes were begun"))
    monkeypatch.setattr(crew, "check_renderer", lambda size=96: None)
    refused(world, "arm 'nobody' does not exist", arm="nobody")
    refused(world, r"'stack' does not exist", base_tasks=["stack"])
    refused(world, "n_action_steps: found 3; legal: divisors of 4", arm="sigma", n_action_steps=3)
    often = {"often": {"n_action_steps": 3}}
    refused(world, "n_action_steps: found 3; legal: divisors of 4", arm="sigma", settings=often)
    refused(
        world,
        r"settings\.late\.delay: found 5; legal: 0 to 4, as sigma plans 8",
        arm="sigma",
        settings={"late": {"delay": 5}},
    )
    refused(world, r"settings\.told\.wording: .*'held_out'", settings={"told": {"wording": "new"}})
    monkeypatch.setitem(
        tasks.TASKS, "lift", replace(tasks.TASKS["lift"], instructions=(Instruction(("levitate it",)),))
    )
    refused(world, "does not know the word 'levitate'")
    refused(world, r"settings\.wind\.speed: unknown key", settings={"wind": {"speed": 1}})
    refused(world, "'plain' names the undisturbed episodes", settings={"plain": {}})
    refused(world, "must all be different", base_tasks=["lift", "reach"])
    refused(world, r"rollout\.video_size", video_size=49)


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


def test_the_shipped_parameters_are_legal_for_the_embedded_base():
    from sigma.policy.control.robot_observation import check_words
    from sigma.policy.pi05.base import load_base
    from sigma.policy.pi05.description import describe_base
    from sigma.simulation.tasks import BASE_TASKS, TARGET, TASKS

    section = read_rollout(ROOT / "stages/rollout/params.yaml")
    assert (section.target, tuple(section.base_tasks)) == (TARGET, BASE_TASKS)
    assert len(rollout._jobs(section)) == 5 + len(section.settings)
    base = load_base(describe_base("embedded", None))
    for setting in section.settings.values():
        check_words(base.prompter, TASKS[TARGET].texts(setting))
