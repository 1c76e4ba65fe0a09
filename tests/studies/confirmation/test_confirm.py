"""``sigma confirm``: trained arms on a fresh dataset, with everything they are judged by left as it was."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from sigma.compute.workers import Workers
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json
from sigma.shared.tables import read_columns
from sigma.studies.confirmation import confirm
from sigma.studies.confirmation import fresh_episodes as confirmation
from tests.arms import run_arm
from tests.datasets import write_dataset
from tests.worlds import ADAPTED, World, inside

ARMS = ("sigma", "residual_mlp", "plain_lora")
LENGTHS = (26, 18, 33)


@pytest.fixture(scope="module")
def armed(prepared, tmp_path_factory) -> World:
    """A world with three trained arms and a dataset of other episodes; read only."""
    world = prepared.copy(tmp_path_factory.mktemp("confirm") / "world")
    for name in ARMS:
        run_arm(world, name)
    write_dataset(world.root / "fresh", lengths=LENGTHS)
    return world


def write_params(world: World, **changes) -> Path:
    values = {"episodes": len(LENGTHS), "seed": 5, "workers": 1, "arms": list(ARMS), "seeds": [1]} | changes
    with open(world.root / "confirmation.yaml", "w", encoding="utf-8") as stream:
        YAML(typ="safe").dump({"confirmation": values}, stream)
    return Path("confirmation.yaml")


def run(world: World, dataset: str = "fresh", **changes) -> dict:
    world.configure(ADAPTED)
    params = write_params(world, **changes)
    with inside(world.root):
        confirm.run(
            params=params,
            dataset=Path(dataset),
            arms=Path("stages/ablation/out"),
            output=Path("metrics/confirmation.json"),
        )
    return read_json(world.root / "metrics/confirmation.json")


@pytest.fixture
def own(armed, tmp_path) -> World:
    """A copy that a test may alter."""
    world = armed.copy(tmp_path / "world")
    for part in ("stages", "fresh"):
        shutil.copytree(armed.root / part, world.root / part)
    return world


@pytest.mark.minutes
def test_every_full_window_of_every_fresh_episode_is_scored(own):
    result = run(own)
    horizon = 8
    assert (result["windows"], result["episodes"]) == (sum(length // horizon for length in LENGTHS), len(LENGTHS))
    plain = {f"plain_lora_{kind}" for kind in ("sample", "zero_noise", "mean")}
    assert set(result["rows"]) == {"frozen_base", "base_mean_of_samples", "sigma", "residual_mlp"} | plain
    assert set(result["scales"]) == {"sigma-1", "residual_mlp-1"}
    assert all(0 <= scale <= 1 for scale in result["scales"].values())
    assert "delta" not in result["rows"]["sigma"]["mse_plan"]
    entry = result["rows"]["frozen_base"]["mse_plan"]
    assert entry["delta"] == pytest.approx(result["rows"]["sigma"]["mse_plan"]["mean"] - entry["mean"], abs=1e-12)
    assert not list(own.root.glob("tmp*")), "the shards of the fresh episodes are not kept"


@pytest.mark.minutes
def test_on_windows_that_the_arm_was_tested_on_it_executes_what_it_did_there(armed, tmp_path):
    """The same episodes under the name of fresh ones: actions, calibration and noise must all be the arm's own."""
    settings = armed.configure(ADAPTED)
    folder = armed.root / "stages/ablation/out"
    shards_meta = read_json(armed.root / "data/shards/meta.json")
    shards = confirmation.fresh_shards(armed.root / "recorded", tmp_path / "shards", shards_meta, Workers(1))
    features, reference = read_json(armed.root / "data/features/meta.json"), read_json(armed.root / "data/base.json")
    material = confirmation.fresh_material(shards, reference, features, settings.base, batch=64, device="cpu")
    place = {
        key: row
        for row, key in enumerate(zip(shards.window_episode.tolist(), shards.window_step.tolist(), strict=True))
    }
    found = {}
    for name in ("sigma", "residual_mlp"):
        found[name], scale = confirmation.residual_actions(
            confirmation.fresh_base(material),
            folder / f"{name}-1",
            settings.adapter.model_dump(),
            name=name,
            batch=64,
        )
        assert scale.shape == (len(place),)
    found |= confirmation.tuned_actions(
        confirmation.fresh_base(material), folder / "plain_lora-1", name="plain_lora", batch=64
    )
    for name, actions in found.items():
        arm = name if name in ARMS else "plain_lora"
        columns, _ = read_columns(folder / f"{arm}-1/predictions.parquet", ())
        test = np.flatnonzero(columns["split"] == "test")
        assert len(test)
        rows = [place[int(columns["episode"][row]), int(columns["step"][row])] for row in test]
        for branch, values in actions.items():
            np.testing.assert_allclose(values[rows], columns[f"{name}.{branch}"][test], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": ["plain_lora"]}, "confirmation.arms: .*sigma among them"),
        ({"arms": ["sigma", "direct"]}, r"direct-1/arm\.json: not found"),
        ({"seeds": [1, 4]}, r"sigma-4/arm\.json: not found"),
        ({"episodes": 1}, "confirmation.episodes"),
    ],
)
def test_what_cannot_be_scored_is_refused(own, changes, words):
    with pytest.raises(SigmaError, match=words):
        run(own, **changes)
    assert not (own.root / "metrics/confirmation.json").exists()


def test_a_dataset_of_another_rate_is_refused(own):
    info = own.root / "fresh/meta/info.json"
    text = info.read_text(encoding="utf-8")
    fps = read_json(info)["fps"]
    info.write_text(text.replace(f'"fps": {fps}', f'"fps": {fps + 5}'), encoding="utf-8")
    with pytest.raises(SigmaError, match="fps: found"):
        run(own)
