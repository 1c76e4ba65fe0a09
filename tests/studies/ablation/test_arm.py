"""``sigma arm`` and ``sigma trial``: what each kind of arm leaves behind, and what is refused before any work."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sigma import SigmaTelepathyVLA
from sigma.policy.adapter.calibration import read_calibration
from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder, read_json
from sigma.shared.tables import read_columns
from sigma.studies.ablation import arm as arm_command
from sigma.studies.ablation import trial
from sigma.studies.ablation.arm_replay import replay_flow_arm, scored_windows
from sigma.studies.ablation.arms import PARAMS
from sigma.training.flow import FlowModel
from tests.arms import run_arm, write_ablation
from tests.training.test_trainer import interrupt
from tests.worlds import World, inside

# A fixture trains several arms.
pytestmark = pytest.mark.minutes

SPANS = {"vector": 1, "chunk": 4, "trajectory": 8}
DECODINGS = ("sample", "zero_noise", "mean")
KINDS = {
    "sigma": ("sigma", ["sigma", "sigma_full_scale"]),
    "told_motion": ("sigma", ["told_motion", "told_motion_full_scale"]),
    "plain_lora": ("lora", [f"plain_lora_{kind}" for kind in DECODINGS]),
    "full_finetune": ("full", [f"full_finetune_{kind}" for kind in DECODINGS]),
}


@pytest.fixture(scope="module")
def armed(prepared, tmp_path_factory) -> World:
    """A world with one run of each kind of arm; read only."""
    world = prepared.copy(tmp_path_factory.mktemp("arms") / "world")
    for name in KINDS:
        run_arm(world, name)
    return world


def folder_of(world: World, name: str) -> Path:
    return world.root / f"stages/ablation/out/{name}-1"


def predictions(world: World, name: str) -> dict[str, np.ndarray]:
    return read_columns(folder_of(world, name) / "predictions.parquet", ())[0]


def test_a_whole_checkpoint_is_evaluated_in_the_type_that_the_features_were_made_with(armed, prepared, tmp_path):
    world = prepared.copy(tmp_path / "world")
    run_arm(world, "full_finetune", arms={"full_finetune": {"overrides": {"base.dtype": "bfloat16"}}})
    plain, found = predictions(armed, "full_finetune"), predictions(world, "full_finetune")
    assert all(np.array_equal(found[name], values) for name, values in plain.items())


@pytest.mark.parametrize("name", KINDS)
def test_the_folder_holds_what_the_later_stages_read(armed, name):
    kind, variants = KINDS[name]
    folder = folder_of(armed, name)
    record = read_json(folder / "arm.json")
    assert (record["arm"], record["seed"], record["kind"], record["variants"]) == (name, 1, kind, variants)
    assert record["shards_digest"] == digest_file(armed.root / "data/shards/meta.json")
    assert record["features_digest"] == digest_folder(armed.root / "data/features")
    assert record["validation"] > 0 and record["trained_parameters"] > 0
    files = {"arm.json", "model", "predictions.parquet", "curves.parquet"}
    calibration = {"adapter_calibration.json", "adapter_calibration.safetensors"} if kind == "sigma" else set()
    assert {path.name for path in folder.iterdir()} == files | calibration
    columns = predictions(armed, name)
    shapes = {f"{variant}.{span}": (steps, 6) for variant in variants for span, steps in SPANS.items()}
    identity = dict.fromkeys(("window", "episode", "step", "split", "task"), ())
    assert {key: column.shape[1:] for key, column in columns.items()} == identity | shapes
    baseline, _ = read_columns(armed.root / "data/predictions/baseline.parquet", ())
    rows = np.flatnonzero(baseline["split"] != "train")
    for key in identity:
        np.testing.assert_array_equal(columns[key], baseline[key][rows])
    assert all(np.isfinite(columns[key]).all() for key in shapes)


@pytest.mark.parametrize("name", KINDS)
def test_the_curves_hold_every_step_and_the_selected_loss(armed, name):
    record = read_json(folder_of(armed, name) / "arm.json")
    names = ("step", "train", "validation", "validation_mse_plan")
    curves, _ = read_columns(folder_of(armed, name) / "curves.parquet", names)
    assert curves["step"].tolist() == list(range(1, record["steps"] + 1)) and np.isfinite(curves["train"]).all()
    chosen = curves["step"] == record["selected_step"]
    assert curves["validation"][chosen] == record["validation"] == np.nanmin(curves["validation"])
    np.testing.assert_array_equal(np.isfinite(curves["validation_mse_plan"]), np.isfinite(curves["validation"]))


@torch.no_grad()
@pytest.mark.parametrize("name", ["sigma", "told_motion"])
def test_a_sigma_executes_the_base_plus_the_scaled_residual(armed, name):
    columns, folder = predictions(armed, name), folder_of(armed, name)
    batches = armed.material()
    vla = SigmaTelepathyVLA.from_base(base_policy=batches.base, lora_dir=folder / "model")
    rows = scored_windows(batches)
    observation, past = batches.observation(rows)
    action = vla.propose(observation, past, [(int(row),) for row in rows], use_base=False).action.numpy()
    base = batches.base_action(rows).numpy()
    calibrated = read_calibration(folder / "adapter_calibration.json")
    assert calibrated.record["episodes"] == len(np.unique(batches.columns["episode"][batches.split == "validation"]))
    for span, steps in SPANS.items():
        residual = (action - base)[:, :steps]
        full, scaled = columns[f"{name}_full_scale.{span}"], columns[f"{name}.{span}"]
        np.testing.assert_allclose(full, base[:, :steps] + residual, rtol=1e-3, atol=2e-4)
        share = ((scaled - base[:, :steps]) * residual).sum((1, 2)) / (residual**2).sum((1, 2))
        assert (share > -1e-3).all() and (share < 1 + 1e-3).all()
        np.testing.assert_allclose(scaled - base[:, :steps], share[:, None, None] * residual, rtol=1e-2, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain_lora", "full_finetune"])
def test_a_fine_tuned_policy_is_decoded_in_three_ways_under_the_bases_noise(armed, name):
    columns, baseline = predictions(armed, name), read_columns(armed.root / "data/predictions/baseline.parquet", ())[0]
    rows = np.flatnonzero(baseline["split"] != "train")
    plans = {kind: columns[f"{name}_{kind}.trajectory"] for kind in DECODINGS}
    for kind, plan in plans.items():
        np.testing.assert_array_equal(columns[f"{name}_{kind}.vector"], plan[:, :1])
        np.testing.assert_array_equal(columns[f"{name}_{kind}.chunk"], plan[:, :4])
    # Untrained, the three are the base's own: the noise is that of the baseline stage.
    batches = armed.material()
    untrained = replay_flow_arm(batches, FlowModel(batches.base.policy), "base", batch=64).variants
    samples = baseline["base_samples"][rows]
    expected = {"sample": samples[:, 0], "zero_noise": baseline["base_zero_noise"][rows], "mean": samples.mean(axis=1)}
    for kind, plan in expected.items():
        np.testing.assert_allclose(untrained[f"base_{kind}"]["trajectory"], plan, rtol=1e-3, atol=2e-4)
        assert not np.allclose(plans[kind], plan, atol=1e-3)


@pytest.mark.minutes
def test_the_same_seed_gives_the_same_bytes_also_after_an_interruption(armed, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    world = prepared.copy(tmp_path / "world")
    for name in ("sigma", "plain_lora", "full_finetune"):
        undo = interrupt(monkeypatch, 3)
        with pytest.raises(KeyboardInterrupt):
            run_arm(world, name)
        undo()
        assert not list((world.root / "stages/ablation/out").glob(f"*{name}*"))
        found = digest_folder(run_arm(world, name))
        assert found == digest_folder(folder_of(armed, name)), name
    assert digest_folder(run_arm(world, "plain_lora", 2)) != digest_folder(folder_of(armed, "plain_lora"))


def test_plain_lora_has_sigmas_rank_and_layers(armed):
    policies = [armed.base().policy for _ in range(2)]
    for policy, name in zip(policies, ("sigma", "plain_lora"), strict=True):
        lora.load(policy, folder_of(armed, name) / "model")
    sigma, plain = ({name: one.shape for name, one in lora.named_parameters(policy).items()} for policy in policies)
    assert sigma == plain
    # Nothing reads what the last layer of the language model makes of its queries: keys and values alone are learned.
    unread = [
        shape.numel() for name, shape in plain.items() if re.search(r"language_model\.layers\.1\..*[qo]_proj", name)
    ]
    trained = read_json(folder_of(armed, "plain_lora") / "arm.json")["trained_parameters"]
    assert len(unread) == 4 and trained == sum(shape.numel() for shape in plain.values()) - sum(unread)


@pytest.fixture
def idle(own, monkeypatch) -> World:
    """A world in which any long work fails the test."""
    import sigma.training.batches as material

    def load(*_, **__):
        raise AssertionError("work had begun")

    monkeypatch.setattr(material, "load_batches", load)
    own.configure()
    write_ablation(own)
    return own


REFUSED = {
    "arm": ({"arm": "sigmma"}, r"no arm 'sigmma'; legal: .*sigma, "),
    "seed": ({"seed": 7}, r"no seed 7; legal: 0, 1, 2"),
    "rates": ({"rates": Path("gone.json")}, r"gone\.json: not found; run the stage that writes it"),
    "params": ({"params": Path("gone.yaml")}, r"gone\.yaml: not found"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_listed_is_refused_before_any_work(idle, name):
    change, message = REFUSED[name]
    given = {
        "params": PARAMS,
        "arm": "sigma",
        "seed": 1,
        "output": Path("out"),
        "rates": PARAMS.parent / "out/rates.json",
    }
    with inside(idle.root), pytest.raises(SigmaError, match=message):
        arm_command.run(**given | change)
    assert not (idle.root / "out").exists()
    with inside(idle.root), pytest.raises(AssertionError, match="work had begun"):
        arm_command.run(**given)


def test_a_trial_writes_its_validation_loss_and_nothing_of_test(own):
    own.configure()
    write_ablation(own, trials={"rates": [0.5, 2.0]})
    with inside(own.root):
        line = trial.run(params=PARAMS, arm="plain_lora", rate=0.5, output=Path("out/half.json"))
        trial.run(params=PARAMS, arm="plain_lora", rate=2.0, output=Path("out/double.json"))
    half, double = (read_json(own.root / f"out/{name}.json") for name in ("half", "double"))
    assert set(half) == {"arm", "rate", "validation"} and (half["arm"], half["rate"]) == ("plain_lora", 0.5)
    assert half["validation"] != double["validation"] and f"{half['validation']:.5f}" in line
    assert sorted(path.name for path in (own.root / "out").iterdir()) == ["double.json", "half.json"]


@pytest.mark.parametrize(
    ("arm", "rate", "message"),
    [
        ("without_film", 1.0, "has no trials of its own, it takes the rate of sigma"),
        ("sigma", 3.0, r"no rate 3; legal: 0\.5, 1"),
        ("sigmma", 1.0, "no arm 'sigmma'"),
    ],
)
def test_a_trial_that_is_not_listed_is_refused_before_any_work(idle, arm, rate, message):
    with inside(idle.root), pytest.raises(SigmaError, match=message):
        trial.run(params=PARAMS, arm=arm, rate=rate, output=Path("out.json"))
