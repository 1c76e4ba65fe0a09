"""``sigma study train``, ``trial`` and what is predicted: what each kind of arm leaves behind, and what is refused."""

import re

import numpy as np
import pytest
import torch

from sigma import SigmaTelepathyVLA
from sigma.policy.adapter.calibration import read_calibration
from sigma.policy.model import lora
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder, read_json
from sigma.shared.tables import read_columns
from sigma.studies.study.cells.arm_folder import DECODINGS, variant_names
from sigma.studies.study.cells.parameters import PARAMS
from sigma.studies.study.cells.workspace import RATES, model_folder
from sigma.studies.study.play.predict import predict, predict_flow
from sigma.studies.study.train import train, trial
from sigma.training.flow import FlowModel
from tests.studies.study.projects import TASK, settle, train_arm
from tests.training.test_trainer import interrupt
from tests.worlds import World, inside

# A fixture trains several arms.
pytestmark = pytest.mark.minutes

SPANS = {"vector": 1, "chunk": 4, "trajectory": 8}
KINDS = {"sigma": "sigma", "told_motion": "sigma", "plain_lora": "lora", "full_finetune": "full"}


@pytest.fixture(scope="module")
def armed(prepared, tmp_path_factory) -> World:
    """A world with one run of each kind of arm; read only."""
    world = prepared.copy(tmp_path_factory.mktemp("arms") / "world")
    for name in KINDS:
        train_arm(world, name)
    return world


@pytest.fixture(scope="module")
def predicted(armed, tmp_path_factory) -> dict:
    """What each arm would execute on the held-out windows, by name of the arm."""
    found, parameters = {}, armed.configure()
    for name in KINDS:
        folder = tmp_path_factory.mktemp(name)
        model = armed.root / model_folder(TASK, name, 1)
        predict(read_json(model / "arm.json"), model, armed.material(), parameters, folder)
        found[name] = folder, read_columns(folder / "predictions.parquet", ())[0]
    return found


def held_out(world: World) -> tuple[np.ndarray, dict]:
    baseline, _ = read_columns(world.root / "data/predictions/baseline.parquet", ())
    return np.flatnonzero(baseline["split"] != "train"), baseline


@pytest.mark.parametrize("name", KINDS)
def test_the_folder_holds_what_the_later_stages_read(armed, name):
    folder = armed.root / model_folder(TASK, name, 1)
    record = read_json(folder / "arm.json")
    assert (record["task"], record["arm"], record["seed"], record["kind"]) == (TASK, name, 1, KINDS[name])
    assert record["rate"] == 2 and record["validation"] > 0 and record["trained_parameters"] > 0
    assert record["shards_digest"] == digest_file(armed.root / "data/shards/meta.json")
    assert record["features_digest"] == digest_folder(armed.root / "data/features")
    assert {path.name for path in folder.iterdir()} == {"arm.json", "model", "curves.parquet"}
    names = ("step", "train", "validation", "validation_mse_plan")
    curves, _ = read_columns(folder / "curves.parquet", names)
    assert curves["step"].tolist() == list(range(1, record["steps"] + 1)) and np.isfinite(curves["train"]).all()
    chosen = curves["step"] == record["selected_step"]
    assert curves["validation"][chosen] == record["validation"] == np.nanmin(curves["validation"])
    np.testing.assert_array_equal(np.isfinite(curves["validation_mse_plan"]), np.isfinite(curves["validation"]))


@pytest.mark.parametrize("name", KINDS)
def test_predictions_are_of_the_held_out_windows_in_the_baselines_order(armed, predicted, name):
    rows, baseline = held_out(armed)
    _, columns = predicted[name]
    # Half an update is only played, and a memory that is cleared anyway cannot be reset.
    never = "half" if name == "sigma" else ("half", "memory_reset")
    shown = [variant for variant in variant_names(name, KINDS[name]) if not variant.endswith(never)]
    shapes = {f"{variant}.{span}": (steps, 6) for variant in shown for span, steps in SPANS.items()}
    identity = dict.fromkeys(("window", "episode", "step", "split"), ())
    assert {key: column.shape[1:] for key, column in columns.items()} == identity | shapes
    for key in identity:
        np.testing.assert_array_equal(columns[key], baseline[key][rows])
    assert all(np.isfinite(columns[key]).all() for key in shapes)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sigma", "told_motion"])
def test_a_sigma_executes_the_base_plus_the_scaled_residual(armed, predicted, name):
    folder, columns = predicted[name]
    batches = armed.material()
    model = armed.root / model_folder(TASK, name, 1) / "model"
    vla = SigmaTelepathyVLA.from_base(base_policy=batches.base, lora_dir=model)
    rows, _ = held_out(armed)
    observation, past = batches.observation(rows)
    action = vla.propose(observation, past, [(int(row),) for row in rows], use_base=False).action.numpy()
    base = batches.base_action(rows).numpy()
    calibrated = read_calibration(folder / "adapter_calibration.json")
    held_out_episodes = batches.shards.window_episode[batches.split == "validation"]
    assert calibrated.record["episodes"] == len(np.unique(held_out_episodes))
    for span, steps in SPANS.items():
        residual = (action - base)[:, :steps]
        full, scaled = columns[f"{name}_full_scale.{span}"], columns[f"{name}.{span}"]
        np.testing.assert_allclose(full, base[:, :steps] + residual, rtol=1e-3, atol=2e-4)
        share = ((scaled - base[:, :steps]) * residual).sum((1, 2)) / (residual**2).sum((1, 2))
        assert (share > -1e-3).all() and (share < 1 + 1e-3).all()
        np.testing.assert_allclose(scaled - base[:, :steps], share[:, None, None] * residual, rtol=1e-2, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain_lora", "full_finetune"])
def test_a_fine_tuned_policy_is_decoded_in_three_ways_under_the_bases_noise(armed, predicted, name):
    rows, baseline = held_out(armed)
    _, columns = predicted[name]
    plans = {kind: columns[f"{name}_{kind}.trajectory"] for kind in DECODINGS}
    for kind, plan in plans.items():
        np.testing.assert_array_equal(columns[f"{name}_{kind}.vector"], plan[:, :1])
        np.testing.assert_array_equal(columns[f"{name}_{kind}.chunk"], plan[:, :4])
    # Untrained, the three are the base's own: the noise is that of the baseline stage.
    batches = armed.material()
    untrained = predict_flow(batches, rows, FlowModel(batches.base.policy), "base", batch=64).variants
    samples = baseline["base_samples"][rows]
    expected = {"sample": samples[:, 0], "zero_noise": baseline["base_zero_noise"][rows], "mean": samples.mean(axis=1)}
    for kind, plan in expected.items():
        np.testing.assert_allclose(untrained[f"base_{kind}"]["trajectory"], plan, rtol=1e-3, atol=2e-4)
        assert not np.allclose(plans[kind], plan, atol=1e-3)


def test_a_whole_checkpoint_is_evaluated_in_the_type_that_the_features_were_made_with(
    armed, predicted, prepared, tmp_path
):
    world = prepared.copy(tmp_path / "world")
    model = train_arm(world, "full_finetune")
    record = read_json(model / "arm.json")
    predict(record, model, world.material(), world.configure({"base": {"dtype": "bfloat16"}}), tmp_path)
    found = read_columns(tmp_path / "predictions.parquet", ())[0]
    assert all(np.array_equal(found[name], values) for name, values in predicted["full_finetune"][1].items())


def test_the_same_seed_gives_the_same_bytes_also_after_an_interruption(armed, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))
    world = prepared.copy(tmp_path / "world")
    for name in ("sigma", "plain_lora", "full_finetune"):
        undo = interrupt(monkeypatch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_arm(world, name)
        undo()
        assert not (world.root / model_folder(TASK, name, 1)).exists()
        assert digest_folder(train_arm(world, name)) == digest_folder(armed.root / model_folder(TASK, name, 1)), name
    assert digest_folder(train_arm(world, "plain_lora", 2)) != digest_folder(world.root / model_folder(TASK, name, 1))


def test_plain_lora_has_sigmas_rank_and_layers(armed):
    policies = [armed.base().policy for _ in range(2)]
    for policy, name in zip(policies, ("sigma", "plain_lora"), strict=True):
        lora.load(policy, armed.root / model_folder(TASK, name, 1) / "model")
    sigma, plain = ({name: one.shape for name, one in lora.named_parameters(policy).items()} for policy in policies)
    assert sigma == plain
    # Nothing reads what the last layer of the language model makes of its queries: keys and values alone are learned.
    unread = [
        shape.numel() for name, shape in plain.items() if re.search(r"language_model\.layers\.1\..*[qo]_proj", name)
    ]
    trained = read_json(armed.root / model_folder(TASK, "plain_lora", 1) / "arm.json")["trained_parameters"]
    assert len(unread) == 4 and trained == sum(shape.numel() for shape in plain.values()) - sum(unread)


@pytest.fixture
def idle(own, monkeypatch) -> World:
    """A world in which any long work fails the test."""
    import sigma.training.batches as material

    def load(*_, **__):
        raise AssertionError("work had begun")

    monkeypatch.setattr(material, "load_batches", load)
    settle(own)
    (own.root / RATES / "put_back/sigma.json").unlink()
    return own


REFUSED = {
    "task": ({"task": "pick"}, r"study\.tasks: no 'pick'"),
    "arm": ({"arm": "sigmma"}, r"no 'sigmma'; legal: .*sigma, "),
    "seed": ({"seed": 7}, r"no seed 7; legal: 0, 1, 2"),
    "params": ({"params": "gone.yaml"}, r"gone\.yaml: not found"),
    "cell": ({"task": "put_back"}, r"rates/put_back/sigma\.json: not found"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_listed_is_refused_before_any_work(idle, tmp_path, name):
    change, message = REFUSED[name]
    output = tmp_path / "out"
    given = {"task": TASK, "arm": "sigma", "seed": 1, "params": PARAMS, "output": output}
    changed = given | change
    with inside(idle.root), pytest.raises(SigmaError, match=message):
        train.run(**changed | {"params": PARAMS.parent / changed["params"] if "params" in change else PARAMS})
    assert not output.exists()
    with inside(idle.root), pytest.raises(AssertionError, match="work had begun"):
        train.run(**given)


def test_a_trial_writes_its_validation_loss_and_nothing_of_test(own, tmp_path):
    settle(own, trials={"rates": [0.5, 2.0]})
    losses = []
    for rate in (0.5, 2.0):
        output = tmp_path / f"{rate}.json"
        with inside(own.root):
            line = trial.run(task=TASK, arm="plain_lora", rate=rate, params=PARAMS, output=output)
        record = read_json(output)
        assert set(record) == {"validation"} and f"{record['validation']:.5f}" in line
        losses.append(record["validation"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("task", "arm", "rate", "message"),
    [
        ("put_back", "with_film", 1.0, "no trials of its own, it takes the rate of sigma on pick_place"),
        ("put_back_50", "sigma", 1.0, "no trials of its own, it takes the rate of sigma on pick_place"),
        (TASK, "sigma", 3.0, "no rate 3; legal: 0.5, 1, 2, 4"),
        (TASK, "sigmma", 1.0, "no 'sigmma'"),
    ],
)
def test_a_trial_that_is_not_listed_is_refused_before_any_work(idle, tmp_path, task, arm, rate, message):
    with inside(idle.root), pytest.raises(SigmaError, match=message):
        trial.run(task=task, arm=arm, rate=rate, params=PARAMS, output=tmp_path / "out.json")
