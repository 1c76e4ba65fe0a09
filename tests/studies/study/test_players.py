"""Arms by name: what each is made of, and what is refused before anything is loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sigma.policy.adapter.adapter import SigmaTelepathyAdapter
from sigma.policy.control.controller import BaseController
from sigma.policy.control.sigma_controller import SigmaController
from sigma.policy.model import lora
from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.description import describe_base
from sigma.shared.errors import SigmaError
from sigma.studies.study.cells.arm_folder import DECODINGS
from sigma.studies.study.cells.workspace import Workspace
from sigma.studies.study.play.players import arm_players, load_player, read_base, root_player
from tests.bases import STATE_DIM
from tests.trained_arms import write_full, write_lora, write_record, write_sigma
from tests.worlds import World, inside

N, HERE = 4, Workspace(Path())


def find_player(name: str, folder: Path | None):
    """The player of this name among those of a trained arm's folder, or of the root pipeline's."""
    if folder is None:
        return root_player(name, HERE)
    return next(player for player in arm_players(folder, folder, HERE) if player.name == name)


def views(count: int = 2) -> list[dict]:
    draw = np.random.default_rng(3)
    found = []
    for _ in range(count):
        images = {name: draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for name in ("up", "wrist")}
        trace = draw.uniform(-40, 40, (N, STATE_DIM)).astype(np.float32)
        found.append({"images": images, "state": trace[-1], "task": "put the cube in the red box", "trace": trace})
    return found


def load(world: World, name: str, folder=None, **changes):
    with inside(world.root):
        arm = find_player(name, folder)
        reference, features = read_base(HERE)
        options = {"reference": reference, "features": features, "parameters": world.configure(), "n_action_steps": N}
        return load_player(arm, **options | changes)


def acted(controller) -> np.ndarray:
    controller.reset([0, 1])
    return controller.act(views(), [0, 1])


def test_the_base_is_its_deterministic_action(trained):
    np.testing.assert_array_equal(
        acted(load(trained, "base")), acted(BaseController(trained.base(), n_action_steps=N, decoding="zero_noise"))
    )


def test_sigma_acts_under_the_parameters_adapter_and_at_full_scale(trained):
    def built(**bounds):
        return SigmaController(
            trained.vla(),
            adapter=SigmaTelepathyAdapter(**trained.configure().adapter.model_dump() | bounds),
            calibration=trained.root / "models/adapter_calibration.json",
            n_action_steps=N,
        )

    np.testing.assert_array_equal(acted(load(trained, "sigma")), acted(built()))
    full = acted(load(trained, "sigma_full_scale"))
    np.testing.assert_array_equal(full, acted(built(min_scale=1.0, max_scale=1.0)))
    assert not np.array_equal(full, acted(load(trained, "sigma")))


def test_with_its_memory_reset_sigma_acts_as_at_an_episodes_first_decision(trained):
    cleared, carried = (load(trained, f"sigma_{name}") for name in ("memory_reset", "full_scale"))
    first = acted(carried)
    for _ in range(2):
        np.testing.assert_array_equal(acted(cleared), first)
        np.testing.assert_array_equal(cleared.act(views(), [0, 1]), first)
    assert not np.array_equal(carried.act(views(), [0, 1]), first)


def test_a_sigma_is_read_from_its_own_folder(trained, tmp_path):
    folder = write_sigma(trained, tmp_path / "told_motion-0")
    for variant in ("", "_full_scale", "_memory_reset"):
        found = load(trained, f"told_motion{variant}", folder)
        np.testing.assert_array_equal(acted(found), acted(load(trained, f"sigma{variant}")))


def test_plain_lora_changes_the_base_and_decodes_as_named(trained, tmp_path):
    folder = write_lora(trained, tmp_path / "plain_lora-0")
    plans = {decoding: acted(load(trained, f"plain_lora_{decoding}", folder)) for decoding in DECODINGS}
    base = trained.base()
    lora.load(base.policy, folder / "model")
    meta = json.loads((trained.root / "data/features/meta.json").read_text())
    for decoding, plan in plans.items():
        expected = BaseController(base, n_action_steps=N, decoding=decoding, samples=meta["samples"], seed=meta["seed"])
        np.testing.assert_array_equal(plan, acted(expected))
        assert not np.allclose(plan, acted(load(trained, "base")), atol=0.1)
    assert not np.allclose(plans["sample"], plans["mean"]) and not np.allclose(plans["mean"], plans["zero_noise"])


def test_half_of_a_lora_is_half_of_its_update(trained, tmp_path):
    folder = write_lora(trained, tmp_path / "plain_lora-0")
    base = trained.base()
    for name, parameter in lora.named_parameters(lora.load(base.policy, folder / "model")).items():
        if ".lora_B." in name:
            parameter.data *= 0.5
    expected = acted(BaseController(base, n_action_steps=N, decoding="zero_noise"))
    np.testing.assert_allclose(acted(load(trained, "plain_lora_half", folder)), expected, rtol=1e-4, atol=1e-3)
    assert not np.allclose(expected, acted(load(trained, "plain_lora_zero_noise", folder)), atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize(("arm", "kind"), [("plain_lora", "lora"), ("past_frames", "frames")])
def test_behind_the_gate_lora_acts_as_without_it_and_as_the_base_where_it_is_closed(trained, tmp_path, arm, kind):
    folder = write_lora(trained, tmp_path / f"{arm}-0", arm, kind)
    opened, closed = {"min_scale": 1.0, "max_scale": 1.0}, {"min_scale": 0.0, "max_scale": 0.0}
    settings = [trained.configure({"adapter": bounds}) for bounds in (opened, closed)]
    gated = [acted(load(trained, f"{arm}_gated", folder, parameters=bounded)) for bounded in settings]
    np.testing.assert_allclose(gated[0], acted(load(trained, f"{arm}_zero_noise", folder)), atol=1e-4)
    np.testing.assert_array_equal(gated[1], acted(load(trained, "base")))


def test_full_finetuning_is_a_base_of_its_own(trained, tmp_path):
    folder = write_full(trained, tmp_path / "full_finetune-0")
    own = load_base(describe_base(str(folder / "model"), None))
    np.testing.assert_array_equal(
        acted(load(trained, "full_finetune_zero_noise", folder)), acted(BaseController(own, n_action_steps=N))
    )


def test_actions_are_in_the_units_that_the_run_computes_with(trained, tmp_path):
    """A LoRA arm is trained on the features' normalisation, which need not be the checkpoint's."""
    with inside(trained.root):
        features = read_base(HERE)[1]
    action = features["normalisation"]["action"]
    doubled = features | {
        "normalisation": features["normalisation"]
        | {"action": action | {name: [2 * value for value in action[name]] for name in ("q01", "q99")}}
    }
    with torch.no_grad():
        plain, other = (acted(load(trained, "base", features=one)) for one in (features, doubled))
    np.testing.assert_allclose(other, 2 * plain, rtol=1e-3, atol=1e-3)


def test_an_arm_that_does_not_exist_is_refused_by_name(trained, tmp_path):
    with inside(trained.root):
        legal = "expert, base, sigma, sigma_full_scale, sigma_memory_reset"
        with pytest.raises(SigmaError, match=rf"'sgima' does not exist; legal: {legal}"):
            find_player("sgima", None)
        with pytest.raises(SigmaError, match=r"arm\.json: not found"):
            find_player("plain_lora_mean", tmp_path / "plain_lora-9")
        with pytest.raises(SigmaError, match="kind: expected 'sigma', 'lora', 'frames' or 'full', found 'regressor'"):
            find_player("told_motion", write_record(trained, tmp_path / "odd", "told_motion", "regressor"))


def test_a_missing_model_or_calibration_is_named(trained, tmp_path):
    with inside(trained.root):
        folder = write_record(trained, tmp_path / "told_motion-0", "told_motion", "sigma")
        with pytest.raises(SigmaError, match=r"told_motion-0/model: not found"):
            find_player("told_motion", folder)
        folder = write_sigma(trained, tmp_path / "told_motion-1")
        (folder / "adapter_calibration.json").unlink()
        with pytest.raises(SigmaError, match=r"adapter_calibration\.json: not found"):
            find_player("told_motion", folder)
    with inside(tmp_path), pytest.raises(SigmaError, match=r"models/sigma: not found"):
        find_player("sigma", None)


def test_models_of_another_base_or_other_windows_are_refused(trained, tmp_path):
    with inside(trained.root):
        folder = write_lora(trained, tmp_path / "plain_lora-0")
        write_record(trained, folder, "plain_lora", "lora", features_digest="0" * 64)
        with pytest.raises(SigmaError, match=r"features_digest: found 0000.*: trained on another base"):
            find_player("plain_lora_mean", folder)
    other = trained.copy(tmp_path / "world")
    config = json.loads((other.root / "models/sigma/config.json").read_text())
    config["base"]["digest"] = "0" * 64
    (other.root / "models/sigma/config.json").write_text(json.dumps(config))
    with pytest.raises(SigmaError, match="models/sigma: was trained on another base"):
        load(other, "sigma")
    meta = other.root / "data/features/meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"base_digest": "0" * 64}))
    with pytest.raises(SigmaError, match=r"meta\.json: belongs to another base"):
        load(other, "base")


def test_a_checkpoint_of_another_form_is_refused(trained, tmp_path):
    folder = write_full(trained, tmp_path / "full_finetune-0", cameras=("observation.images.up",))
    with pytest.raises(SigmaError, match=r"model: cameras: found \['observation\.images\.up'\]"):
        load(trained, "full_finetune_mean", folder)


def test_steps_that_miss_memorys_stride_are_refused_before_weights_are_read(trained, monkeypatch, tmp_path):
    import sigma.policy.pi05.base as module

    monkeypatch.setattr(module, "load_strictly", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(SigmaError, match="n_action_steps: found 3; legal: divisors of 4 up to 8"):
        load(trained, "sigma", n_action_steps=3)
    with pytest.raises(SigmaError, match="n_action_steps: found 17; legal: 1 to 16"):
        load(trained, "base", n_action_steps=17)
