"""Flow matching alone: what it trains, what selects, and that a killed run ends as if it never was."""

import numpy as np
import pytest
import torch

from sigma.policy.model import lora
from sigma.policy.model.model_folder import base_digest
from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.base_action import zero_noise_action
from sigma.policy.pi05.description import describe_base
from sigma.shared.errors import SigmaError
from sigma.studies.ablation.arm_training import new_trainer, write_arm_model
from sigma.studies.ablation.flow_trainer import FlowResult, FlowTrainer
from sigma.training.flow import FlowModel
from sigma.training.objectives import FlowObjective
from sigma.training.state import Scratch
from tests.training.test_trainer import interrupt, steps_taken
from tests.worlds import World

SHORT = {"train": {"flow_steps": 4, "validate_every": 2, "lora_learning_rate": 0.02}}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Every test has its own place for checkpoints."""
    monkeypatch.setenv("SIGMA_SCRATCH", str(tmp_path / "scratch"))


def train(world: World, kind: str, *changes) -> FlowResult:
    trainer = new_trainer(kind, world.material(), world.configure(SHORT, *changes))
    with Scratch.open(trainer.key()) as scratch:
        result = trainer.run(scratch)
        scratch.clear()
    return result


@pytest.fixture(scope="module")
def tuned(prepared, tmp_path_factory) -> dict[str, FlowResult]:
    """Both kinds, trained for a few steps; read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGMA_SCRATCH", str(tmp_path_factory.mktemp("flow") / "scratch"))
        return {kind: train(prepared, kind) for kind in ("lora", "full")}


@torch.no_grad()
def actions(model: FlowModel, material) -> torch.Tensor:
    encoded = model.adapted_pass(material.observation(np.arange(6))).encoded
    return zero_noise_action(model.policy, encoded, 3)


def test_full_training_moves_vision_language_and_expert_and_lora_none_of_the_base(prepared, tuned):
    before = prepared.base().policy.state_dict()
    after = tuned["full"].model.policy.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    for part in (
        ".vision_tower.",
        ".multi_modal_projector.",
        ".embed_tokens.",
        ".language_model.layers.0.",
        "gemma_expert.",
    ):
        assert any(part in name for name in moved), part
    assert not any("lm_head" in name for name in moved)
    assert base_digest(tuned["lora"].model.policy) == base_digest(prepared.base().policy)
    assert tuned["full"].trainable > 20 * tuned["lora"].trainable


def test_the_saved_model_acts_as_the_trained_one_to_the_bit(prepared, tuned, tmp_path):
    for kind, result in tuned.items():
        write_arm_model(result, tmp_path / kind)
    material = prepared.material()
    reloaded = FlowModel(lora.load(material.base.policy, tmp_path / "lora")).eval()
    assert torch.equal(actions(reloaded, material), actions(tuned["lora"].model, tuned["lora"].material))
    assert not (tmp_path / "lora/config.json").exists()
    # A whole checkpoint is a base: strictly loaded, with the processors and statistics that the base has.
    reference = describe_base(str(tmp_path / "full"), None)
    base = load_base(reference)
    trained = tuned["full"].model.policy.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in base.policy.state_dict().items())
    origin = prepared.base()
    for name, quantiles in origin.statistics.items():
        np.testing.assert_array_equal(base.statistics[name].q01, quantiles.q01)
        np.testing.assert_array_equal(base.statistics[name].q99, quantiles.q99)
    assert {path.name for path in (tmp_path / "full").iterdir()} == {
        path.name for path in (prepared.root / "base").iterdir()
    }


def test_a_checkpoint_trained_in_the_datasets_statistics_is_saved_with_them(prepared, tmp_path):
    world = prepared.copy(tmp_path / "world")
    change = {"base": {"statistics": "dataset"}}
    world.run("baseline", changes=change)
    result = train(world, "full", change, {"train": {"flow_steps": 1}})
    write_arm_model(result, tmp_path / "full")
    found = load_base(describe_base(str(tmp_path / "full"), None)).statistics
    expected = result.material.builder.normalisation
    for name, quantiles in (("observation.state", expected.state), ("action", expected.action)):
        np.testing.assert_allclose(found[name].q01, quantiles.q01, rtol=1e-6)
        np.testing.assert_allclose(found[name].q99, quantiles.q99, rtol=1e-6)
    assert not np.allclose(found["action"].q01, world.base().statistics["action"].q01)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_action_from_zero_noise_selects_and_the_flow_loss_is_recorded_beside_it(prepared, tuned, kind):
    result = tuned[kind]
    points = result.curves[0].validation
    assert [point["step"] for point in points] == [2, 4] and all(point["flow"] > 0 for point in points)
    assert (result.validation, result.selected) == min((point["value"], point["step"]) for point in points)
    material = result.material
    rows = np.flatnonzero(material.split == "validation")
    with torch.no_grad():
        encoded = result.model.adapted_pass(material.observation(rows)).encoded
        plan = zero_noise_action(result.model.policy, encoded, material.meta["num_steps"])[:, :8].numpy()
    squares = (plan - material.columns["action"][rows]) ** 2
    expected = np.mean([squares[row][material.columns["valid"][window]].mean() for row, window in enumerate(rows)])
    assert result.validation == pytest.approx(expected, rel=1e-4)


def test_validation_does_not_depend_on_the_batch_nor_on_base_samples(prepared):
    trainer = new_trainer("lora", prepared.material(), prepared.configure(SHORT))
    objective = FlowObjective(trainer.build(), trainer.material, trainer.train, trainer.parts)
    value, flow = objective.validate(64), dict(objective.extra_metrics)
    assert objective.validate(2) == pytest.approx(value, rel=1e-4)
    assert objective.extra_metrics["flow"] == pytest.approx(flow["flow"], rel=1e-4)
    trainer.material.meta["action"] = "sample"
    assert objective.validate(64) == value


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(("after", "resumed"), [(1, [0, 1, 2, 3]), (3, [2, 3])])
def test_an_interrupted_training_ends_as_an_uninterrupted_one_to_the_bit(
    prepared, tuned, monkeypatch, kind, after, resumed
):
    undo = interrupt(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        train(prepared, kind)
    undo()
    steps = steps_taken(monkeypatch)
    result = train(prepared, kind)
    assert steps == resumed
    expected = tuned[kind]
    assert (result.validation, result.selected, result.trainable) == (
        expected.validation,
        expected.selected,
        expected.trainable,
    )
    assert result.curves[0].train == expected.curves[0].train
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], tensor), name


def test_kinds_rates_and_seeds_have_keys_of_their_own(prepared):
    def key(kind, *changes):
        return new_trainer(kind, prepared.material(), prepared.configure(SHORT, *changes)).key()

    others = [key("full"), key("residual"), key("lora", {"train": {"seed": 1}}), key("lora", {"lora": {"rank": 3}})]
    assert len({key("lora"), *others}) == 5 and key("lora") == key("lora")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flow_steps": 0}, r"train\.flow_steps: found 0 with flow matching alone; legal: integer ≥ 1"),
        ({"lora_learning_rate": 0.0}, r"train\.lora_learning_rate: found 0 with flow matching alone; legal: > 0"),
        ({"gradient_checkpointing": True}, r"gradient_checkpointing: found true with flow matching"),
    ],
)
def test_parameters_that_do_not_go_with_flow_matching_are_refused(prepared, change, message):
    with pytest.raises(SigmaError, match=message):
        FlowTrainer(prepared.material(), prepared.configure(SHORT, {"train": change}), "lora")


def test_a_base_without_statistics_cannot_be_saved_and_so_is_not_trained_whole(prepared):
    from dataclasses import replace

    material = prepared.material()
    material.base = replace(material.base, statistics=None)
    with pytest.raises(SigmaError, match="without statistics cannot be saved"):
        new_trainer("full", material, prepared.configure(SHORT))
