"""``sigma arm`` and ``sigma trial``: what each kind of arm leaves behind, and what is refused before any work."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sigma import SigmaTelepathyAdapter, SigmaTelepathyVLA
from sigma.evaluation.replay.sigma_replay import decide, open_model, replay_windows
from sigma.policy.adapter.calibration import read_calibration
from sigma.policy.adapter.measures import Measures
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder, read_json
from sigma.shared.tables import read_columns
from sigma.studies.ablation import arm as arm_command
from sigma.studies.ablation import trial
from sigma.studies.ablation.arm_replay import (
    _swaps,
    donor_windows,
    replay_flow_arm,
    replay_residual_arm,
    scored_windows,
)
from sigma.studies.ablation.arms import PARAMS
from sigma.training.batches import adapted_actions
from sigma.training.flow import FlowModel
from tests.arms import run_arm, write_ablation
from tests.policy.control.test_sigma_controller import observations, test_episode
from tests.training.test_trainer import interrupt
from tests.worlds import World, inside

# A fixture trains several arms.
pytestmark = pytest.mark.minutes

SPANS = {"vector": 1, "chunk": 4, "trajectory": 8}
KINDS = {
    "sigma": ("residual", ["sigma", "sigma_full_scale", "sigma_without_residual", "tau_mean", "tau_shuffled"]),
    "sigma_frozen": ("residual", ["sigma_frozen", "sigma_frozen_full_scale"]),
    "residual_mlp": ("residual", ["residual_mlp", "residual_mlp_full_scale"]),
    "without_lora": ("residual", ["without_lora", "without_lora_full_scale"]),
    "plain_lora": ("lora", [f"plain_lora_{kind}" for kind in ("sample", "zero_noise", "mean")]),
    "full_finetune": ("full", [f"full_finetune_{kind}" for kind in ("sample", "zero_noise", "mean")]),
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
    changes = {"base.dtype": "bfloat16"}
    run_arm(world, "full_finetune", arms={"full_finetune": {"overrides": changes}})
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
    calibration = {"adapter_calibration.json", "adapter_calibration.safetensors"} if kind == "residual" else set()
    assert {path.name for path in folder.iterdir()} == files | calibration
    columns = predictions(armed, name)
    shapes = {f"{variant}.{branch}": (steps, 6) for variant in variants for branch, steps in SPANS.items()}
    identity = dict.fromkeys(("window", "episode", "step", "split", "task"), ())
    assert {key: column.shape[1:] for key, column in columns.items()} == identity | shapes
    baseline, _ = read_columns(armed.root / "data/predictions/baseline.parquet", ())
    rows = np.flatnonzero(baseline["split"] != "train")
    for key in identity:
        np.testing.assert_array_equal(columns[key], baseline[key][rows])
    assert all(np.isfinite(columns[key]).all() for key in shapes)


@pytest.mark.parametrize("name", KINDS)
def test_the_curves_hold_every_step_and_the_selected_error(armed, name):
    record = read_json(folder_of(armed, name) / "arm.json")
    curves, _ = read_columns(folder_of(armed, name) / "curves.parquet", ("phase", "step", "train", "validation"))
    frozen = name in ("sigma_frozen", "without_lora")
    phases = ["residual"] if frozen else ["flow", "residual"] if record["kind"] == "residual" else ["flow"]
    assert list(dict.fromkeys(curves["phase"])) == phases and len(curves["step"]) == record["steps"]
    assert np.isfinite(curves["train"]).all()
    chosen = (curves["phase"] == phases[-1]) & (curves["step"] == record["selected_step"])
    assert (
        curves["validation"][chosen]
        == record["validation"]
        == np.nanmin(curves["validation"][curves["phase"] == phases[-1]])
    )
    np.testing.assert_array_equal(
        np.isfinite(curves["validation_flow"]), np.isfinite(curves["validation"]) & (curves["phase"] == "flow")
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["sigma", "sigma_frozen", "residual_mlp", "without_lora"])
def test_a_residual_arm_executes_base_plus_scaled_residual(armed, name):
    columns, folder = predictions(armed, name), folder_of(armed, name)
    material = armed.material()
    vla = SigmaTelepathyVLA.from_base(base_policy=material.base, lora_dir=folder / "model")
    rows = scored_windows(material)
    output = vla.decide(material.observation(rows), [(int(row),) for row in rows])
    base = material.base_action(rows).numpy()
    calibrated = read_calibration(folder / "adapter_calibration.json")
    assert calibrated["windows"] == (material.split == "validation").sum()
    for branch, steps in SPANS.items():
        correction = output[f"telepathy_residual_{branch}"].reshape(len(rows), steps, 6).numpy()
        full, scaled = columns[f"{name}_full_scale.{branch}"], columns[f"{name}.{branch}"]
        np.testing.assert_allclose(full, base[:, :steps] + correction, rtol=1e-3, atol=2e-4)
        share = ((scaled - base[:, :steps]) * correction).sum((1, 2)) / (correction**2).sum((1, 2))
        assert (share > 0).all() and (share < 1).all()
        moved = share[:, None, None] * correction
        np.testing.assert_allclose(scaled - base[:, :steps], moved, rtol=1e-2, atol=1e-3)


@torch.no_grad()
def test_the_mlps_missing_factors_count_as_nothing_in_adapter_and_controller(armed):
    folder = folder_of(armed, "residual_mlp")
    calibration = read_calibration(folder / "adapter_calibration.json")
    assert (calibration["misalignment_q95"], calibration["tau_l2_median"]) == (None, None)
    vla = SigmaTelepathyVLA.from_base(base_policy=armed.base(), lora_dir=folder / "model")
    assert vla.config["sizes"]["architecture"] == "mlp"
    controller = SigmaController(
        vla,
        adapter=SigmaTelepathyAdapter(),
        calibration=folder / "adapter_calibration.json",
        n_action_steps=4,
    )
    controller.reset([0])
    action = controller.act([observations(armed, test_episode(armed), 0)], [0])
    assert np.isfinite(action).all()
    weights = {"misalignment": 50.0, "tau": 50.0}
    heavy = SigmaTelepathyAdapter(weights=weights, calibration=calibration)
    plain = SigmaTelepathyAdapter(calibration=calibration)
    base, residual = np.ones((2, 6), dtype=np.float32), np.full((2, 6), 0.1, dtype=np.float32)
    np.testing.assert_array_equal(heavy.risk(base, residual), plain.risk(base, residual))
    with pytest.raises(ValueError, match="a model without telepathy"):
        plain.risk(base, residual, Measures(alignment=np.ones(2, dtype=np.float32)))


def test_lora_without_a_learning_rate_is_saved_as_it_began(armed):
    tensors = load_file(folder_of(armed, "without_lora") / "model" / lora.WEIGHTS)
    learned = load_file(folder_of(armed, "sigma_frozen") / "model" / lora.WEIGHTS)
    assert not any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    assert any(tensor.any() for name, tensor in learned.items() if "lora_B" in name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain_lora", "full_finetune"])
def test_a_fine_tuned_policy_is_decoded_in_three_ways_under_the_bases_noise(armed, name):
    columns, baseline = predictions(armed, name), read_columns(armed.root / "data/predictions/baseline.parquet", ())[0]
    rows = np.flatnonzero(baseline["split"] != "train")
    plans = {kind: columns[f"{name}_{kind}.trajectory"] for kind in ("sample", "zero_noise", "mean")}
    for kind, plan in plans.items():
        np.testing.assert_array_equal(columns[f"{name}_{kind}.vector"], plan[:, :1])
        np.testing.assert_array_equal(columns[f"{name}_{kind}.chunk"], plan[:, :4])
    # Untrained, the three are the base's own: the noise is that of the baseline stage.
    material = armed.material()
    untrained = replay_flow_arm(material, FlowModel(material.base.policy), "base", batch=64).variants
    samples = baseline["base_samples"][rows]
    expected = {"sample": samples[:, 0], "zero_noise": baseline["base_zero_noise"][rows], "mean": samples.mean(axis=1)}
    for kind, plan in expected.items():
        np.testing.assert_allclose(untrained[f"base_{kind}"]["trajectory"], plan, rtol=1e-3, atol=2e-4)
        assert not np.allclose(plans[kind], plan, atol=1e-3)


@torch.no_grad()
def test_variants_without_own_factors_leave_the_trained_arm_and_its_scales_alone(armed):
    folder = folder_of(armed, "sigma") / "model"
    settings = armed.configure().adapter.model_dump()

    def variants(swaps):
        return replay_residual_arm(armed.material(), folder, "sigma", settings, seed=1, swaps=swaps, batch=64).variants

    alone, whole = variants(False), variants(True)
    columns = predictions(armed, "sigma")
    assert list(alone) == ["sigma", "sigma_full_scale"] and list(whole) == KINDS["sigma"][1]
    for name in ("sigma", "sigma_full_scale"):
        for branch in SPANS:
            np.testing.assert_array_equal(whole[name][branch], alone[name][branch])
            np.testing.assert_array_equal(columns[f"{name}.{branch}"], alone[name][branch])
    for branch in SPANS:
        assert not np.array_equal(whole["sigma_without_residual"][branch], whole["sigma"][branch])
        assert not np.array_equal(whole["tau_mean"][branch], whole["sigma"][branch])
        assert not np.array_equal(whole["tau_shuffled"][branch], whole["tau_mean"][branch])


@torch.no_grad()
def test_without_residual_heads_the_adapted_action_is_executed_with_the_arms_own_scales(armed):
    material, columns = armed.material(), predictions(armed, "sigma")
    model, branch = open_model(material, folder_of(armed, "sigma") / "model")
    assert branch == "adapted"
    rows = scored_windows(material)
    base, adapted = material.base_action(rows).numpy(), adapted_actions(model, material, rows, 64).numpy()
    for part, steps in SPANS.items():
        frozen, corrections = base[:, :steps], columns[f"sigma_full_scale.{part}"] - base[:, :steps]
        shift = adapted[:, :steps] - frozen
        scaled = columns[f"sigma.{part}"] - frozen
        share = (scaled * corrections).sum((1, 2)) / (corrections**2).sum((1, 2))
        expected = frozen + share[:, None, None] * shift
        np.testing.assert_allclose(columns[f"sigma_without_residual.{part}"], expected, rtol=1e-2, atol=1e-3)
        assert np.abs(share[:, None, None] * shift).max() > 0.01, "there is nothing to compare"


@torch.no_grad()
def test_the_mean_of_the_factors_is_that_of_train_windows_before_and_after_the_pass(armed):
    material = armed.material()
    model, branch = open_model(material, folder_of(armed, "sigma") / "model")
    windows = scored_windows(material)
    replay = replay_windows(model, material, branch, windows, 64, "test")
    swaps = _swaps(model, material, branch, replay, 0, 64)
    train = np.flatnonzero(material.split == "train")
    decision = model(material.observation(train), adapted_actions(model, material, train, 64))
    mean = swaps["tau_mean"](windows)
    assert mean.factors.shape == mean.anticipated.shape == (len(windows), 3, 4)
    for found, expected in (
        (mean.factors, decision.telepathy.factors.mean(0)),
        (mean.anticipated, decision.telepathy.anticipated.mean(0)),
    ):
        torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mean.factors, mean.anticipated)
    own = model(material.observation(windows), adapted_actions(model, material, windows, 64))
    np.testing.assert_allclose(replay.columns["tau"], own.telepathy.factors.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        replay.columns["tau_anticipated"], own.telepathy.anticipated.numpy(), rtol=1e-4, atol=1e-5
    )
    shuffled, donors = swaps["tau_shuffled"](windows), donor_windows(material, windows, 0)
    rows = [list(windows).index(donors[int(window)]) for window in windows]
    torch.testing.assert_close(shuffled.factors, own.telepathy.factors[rows], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled.anticipated, own.telepathy.anticipated[rows], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(shuffled.factors, own.telepathy.factors)


@torch.no_grad()
def test_swapped_factors_reach_the_adapted_policy_too(armed):
    """The action that is corrected is that of the policy which was told the other factors."""
    material = armed.material()
    model, branch = open_model(material, folder_of(armed, "sigma") / "model")
    windows = scored_windows(material)
    replay = replay_windows(model, material, branch, windows, 64, "test")
    swap = _swaps(model, material, branch, replay, 0, 64)["tau_mean"]
    told = decide(model, material, branch, windows, 64, "test", swap=swap)
    passed = model.adapted_pass(material.observation(windows), swap=swap(windows))
    action = material.decide(model.policy, passed.encoded, windows, material.meta["action"])
    np.testing.assert_allclose(told["adapted_action"], action.numpy(), rtol=1e-3, atol=1e-4)
    assert not np.allclose(told["adapted_action"], replay.columns["adapted_action"], atol=1e-4)


@pytest.mark.minutes
def test_the_same_seed_gives_the_same_bytes_also_after_an_interruption(armed, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    world = prepared.copy(tmp_path / "world")
    for name, after in {"sigma": 7, "plain_lora": 3, "full_finetune": 3}.items():
        undo = interrupt(monkeypatch, after)
        with pytest.raises(KeyboardInterrupt):
            run_arm(world, name)
        undo()
        assert not list((world.root / "stages/ablation/out").glob(f"*{name}*"))
        found = digest_folder(run_arm(world, name))
        assert found == digest_folder(folder_of(armed, name)), name
    assert digest_folder(run_arm(world, "plain_lora", 2)) != digest_folder(folder_of(armed, "plain_lora"))


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


def test_a_trial_writes_its_validation_error_and_nothing_of_test(own):
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


def test_the_main_pipeline_refuses_the_mlp(idle):
    with pytest.raises(SigmaError, match=r"telepathy\.architecture: found mlp.*legal: telepathy"):
        idle.run("finetune", changes={"telepathy": {"architecture": "mlp"}})
