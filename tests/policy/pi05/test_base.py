"""A base is loaded exactly or not at all."""

import json

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.lerobot_types import TransitionKey
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from safetensors.torch import load_file, save_file

from sigma.policy.model.model_folder import base_digest
from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.base_origin import resolve_base
from sigma.policy.pi05.description import describe_base
from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.policy.pi05.weights import empty_policy, fresh_buffers, module_name
from sigma.shared.errors import SigmaError
from sigma.shared.quantiles import Quantiles
from tests.bases import ACTION_DIM, CAMERAS, STATISTICS, load_tiny_base, write_tiny_base

EMBEDDINGS = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"


@pytest.fixture
def folder(tmp_path):
    return write_tiny_base(tmp_path / "base")


def rewrite(folder, change):
    """Change the stored tensors of a base in place."""
    tensors = dict(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def load(folder, **options):
    return load_base(describe_base(str(folder), None), **options)


def example(policy, draw=3):
    generator = torch.Generator().manual_seed(draw)
    batch = {camera: torch.rand(2, 3, 32, 32, generator=generator) for camera in CAMERAS}
    batch["observation.language.tokens"] = torch.randint(0, 500, (2, 32), generator=generator)
    batch["observation.language.attention_mask"] = torch.ones(2, 32, dtype=torch.bool)
    noise = torch.randn(2, 16, ACTION_DIM, generator=generator)
    return policy.predict_action_chunk(batch, noise=noise, num_steps=5)


def test_loaded_actions_are_bit_identical_to_a_policy_built_in_memory(folder):
    base = load(folder)
    built = PI05SmallPolicy.from_pretrained(folder)
    assert torch.equal(example(base.policy), example(built))
    assert base_digest(base.policy) == base_digest(built)
    buffers = dict(built.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in base.policy.named_buffers())
    assert not base.policy.training
    assert not any(parameter.requires_grad for parameter in base.policy.parameters())


def test_a_base_describes_itself(folder):
    base = load(folder)
    assert base.cameras == CAMERAS
    assert (base.state_dim, base.action_dim, base.chunk_size, base.resolution, base.num_steps) == (6, 6, 16, 32, 5)
    for feature, quantiles in STATISTICS.items():
        np.testing.assert_array_equal(base.statistics[feature].q01, quantiles.q01)
        np.testing.assert_array_equal(base.statistics[feature].q99, quantiles.q99)
    assert json.loads(json.dumps(base.reference)) == base.reference
    assert base.reference["relative_actions"] is False


def test_equal_bases_in_two_places_have_one_digest_and_different_weights_another(tmp_path, folder):
    twin = write_tiny_base(tmp_path / "twin")
    other = write_tiny_base(tmp_path / "other", seed=1)
    digests = [describe_base(str(one), None)["digest"] for one in (folder, twin, other)]
    assert digests[0] == digests[1] != digests[2]


def test_half_precision_loads_with_lerobots_choice_of_tensors(folder):
    policy = load(folder, dtype="bfloat16").policy
    dtypes = {name: parameter.dtype for name, parameter in policy.named_parameters()}
    assert dtypes[EMBEDDINGS] is torch.bfloat16
    assert all(dtype is torch.float32 for name, dtype in dtypes.items() if "vision_tower" in name)
    built = PI05SmallPolicy(policy.config)
    assert dtypes == {name: parameter.dtype for name, parameter in built.named_parameters()}
    assert {n: b.dtype for n, b in policy.named_buffers()} == {n: b.dtype for n, b in built.named_buffers()}


def test_a_missing_tensor_is_named(folder):
    rewrite(folder, lambda tensors: tensors.pop("model.action_in_proj.bias"))
    with pytest.raises(SigmaError, match=r"missing: model\.action_in_proj\.bias"):
        load(folder)


def test_an_extra_tensor_is_named(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.third_arm.weight": torch.zeros(2)}))
    with pytest.raises(SigmaError, match=r"no place in pi05_small: model\.third_arm\.weight"):
        load(folder)


def test_a_tensor_of_another_shape_is_named(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.action_in_proj.bias": torch.zeros(3)}))
    with pytest.raises(SigmaError, match=r"action_in_proj\.bias has shape \(3,\)"):
        load(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    rewrite(folder, lambda tensors: tensors["model.time_mlp_in.bias"].fill_(float("nan")))
    with pytest.raises(SigmaError, match=r"time_mlp_in\.bias holds values that are not finite"):
        load(folder)


def test_a_tensor_altered_after_it_was_recorded_is_refused(folder):
    reference = describe_base(str(folder), None)
    rewrite(folder, lambda tensors: tensors["model.time_mlp_in.bias"].add_(1e-2))
    with pytest.raises(SigmaError, match=r"time_mlp_in\.bias is not the one that was recorded"):
        load_base(reference)


def test_a_tensor_lost_after_it_was_recorded_is_refused(folder):
    reference = describe_base(str(folder), None)
    rewrite(folder, lambda tensors: tensors.pop(EMBEDDINGS))
    with pytest.raises(SigmaError, match=r"missing: .*embed_tokens"):
        load_base(reference)


def test_a_configuration_changed_after_it_was_recorded_is_refused(folder):
    reference = describe_base(str(folder), None)
    edit_config(folder, num_inference_steps=9)
    with pytest.raises(SigmaError, match="num_steps is not the one"):
        load_base(reference)


def test_a_corrupt_weights_file_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SigmaError, match="not readable as safetensors"):
        describe_base(str(folder), None)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(SigmaError, match=r"model\.safetensors: not found"):
        describe_base(str(folder), None)


def test_known_renamings_load_and_give_the_same_policy(tmp_path, folder):
    expected = load(folder).policy
    tied = dict(load_file(folder / "model.safetensors"))
    tied[HEAD] = tied[EMBEDDINGS].clone()
    save_file(tied, folder / "model.safetensors")

    def as_published(tensors):
        del tensors[EMBEDDINGS]
        for name in list(tensors):
            short = name.removeprefix("model.").replace("time_mlp_", "action_time_mlp_")
            tensors[short] = tensors.pop(name)
        tensors["state_proj.weight"] = torch.zeros(2, 2)
        tensors["paligemma_with_expert.gemma_expert.model.norm.weight"] = torch.zeros(16)

    rewrite(folder, as_published)
    assert torch.equal(example(load(folder).policy), example(expected))


def test_module_names_of_a_full_size_checkpoint_are_kept():
    name = "paligemma_with_expert.gemma_expert.model.layers.0.input_layernorm.dense.weight"
    assert module_name(name) == f"model.{name}"
    assert module_name(f"model.{name}") == f"model.{name}"


def test_names_and_shapes_are_taken_without_memory(folder):
    policy = empty_policy(load(folder).policy.config, "float32")
    assert all(parameter.is_meta for parameter in policy.parameters())


def test_every_buffer_that_a_full_size_checkpoint_lacks_has_a_rule():
    policy = empty_policy(PI05Config(device="cpu"), "bfloat16")
    stored = set(policy.state_dict())
    names = {name for name, _ in policy.named_buffers()} - stored
    assert names
    for path, _, name in (name.rpartition(".") for name in names):
        assert name in fresh_buffers(policy.get_submodule(path)), path
    assert policy.model.paligemma_with_expert.paligemma.lm_head.weight.shape == (257152, 2048)


def test_a_tokenizer_larger_than_the_policys_vocabulary_is_refused(tmp_path):
    folder = write_tiny_base(tmp_path / "base", vocabulary_size=300)
    with pytest.raises(SigmaError, match="the policy embeds 300"):
        describe_base(str(folder), None)


def test_relative_actions_are_refused_by_name(folder):
    edit_config(folder, use_relative_actions=True)
    with pytest.raises(SigmaError, match="use_relative_actions"):
        describe_base(str(folder), None)


def test_another_policy_type_is_refused(folder):
    edit_config(folder, type="act")
    with pytest.raises(SigmaError, match="type is 'act'; legal: pi05, pi05_small"):
        describe_base(str(folder), None)


@pytest.mark.parametrize("revision", [None, "main", "abc123", "A" * 40])
def test_a_hub_base_needs_a_full_commit(revision):
    with pytest.raises(SigmaError, match="40 hex digits"):
        resolve_base("lerobot/pi05_base", revision)


def test_a_hub_base_that_cannot_be_had_is_one_line(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    words = rf"^lerobot/pi05_base@a{{40}}: it is not whole in the cache {tmp_path}, and the Hub cannot be reached$"
    with pytest.raises(SigmaError, match=words):
        resolve_base("lerobot/pi05_base", "a" * 40)


def test_sources_that_are_neither_folder_nor_hub_id_are_refused(tmp_path):
    with pytest.raises(SigmaError, match="no such folder"):
        resolve_base(str(tmp_path / "nowhere" / "base"), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SigmaError, match=r"config\.json: not found"):
        resolve_base(str(tmp_path / "empty"), None)


def test_a_local_folder_takes_no_revision(folder):
    with pytest.raises(SigmaError, match="not a Hub id"):
        resolve_base(str(folder), "a" * 40)


def test_the_instruction_embedding_ignores_state_and_frame(tmp_path):
    base = load_tiny_base(tmp_path / "base")
    low, high = np.full((1, 6), -0.5), np.full((1, 6), 0.7)
    one = base.text_embedding_mean(base.prompter(["lift the cube"], low))
    assert torch.equal(one, base.text_embedding_mean(base.prompter(["lift the cube"], high)))
    assert not torch.equal(one, base.text_embedding_mean(base.prompter(["push the cube"], low)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_equal_lerobots_normalizer_to_the_bit(dtype):
    draw = np.random.default_rng(0)
    low = draw.normal(size=6).astype(np.float32) * 50
    high = low + draw.uniform(0.01, 100, 6).astype(np.float32)
    high[2] = low[2]  # a joint that never moved: eps takes the place of its range
    quantiles = Quantiles(low, high)
    features = {"action": PolicyFeature(FeatureType.ACTION, (6,))}
    norm_map = {FeatureType.ACTION: NormalizationMode.QUANTILES}
    stats = {"action": {"q01": torch.from_numpy(low), "q99": torch.from_numpy(high)}}
    raw = torch.from_numpy(draw.normal(size=(5, 6)) * 80).to(dtype)
    forward = NormalizerProcessorStep(features=features, norm_map=norm_map, stats=stats)
    backward = UnnormalizerProcessorStep(features=features, norm_map=norm_map, stats=stats)
    normal = forward({TransitionKey.ACTION: raw})[TransitionKey.ACTION]
    moving = ~quantiles.constant
    assert torch.equal(quantiles.normalise(raw)[:, moving], normal[:, moving])
    np.testing.assert_array_equal(quantiles.normalise(raw.numpy())[:, moving], normal.numpy()[:, moving])
    # LeRobot makes 10⁹ of a joint that never moved in training; here it stays what it was there.
    assert (quantiles.normalise(raw)[:, 2] == -1).all() and normal[:, 2].abs().min() > 1e6
    back = backward({TransitionKey.ACTION: normal})[TransitionKey.ACTION]
    assert torch.equal(quantiles.unnormalise(normal), back)
    np.testing.assert_array_equal(quantiles.unnormalise(normal.numpy()), back.numpy())
    assert quantiles.constant.tolist() == [False, False, True, False, False, False]


def test_quantiles_survive_json_and_refuse_nonsense():
    quantiles = STATISTICS["action"]
    again = Quantiles.from_json(json.loads(json.dumps(quantiles.to_json())))
    np.testing.assert_array_equal(again.q01, quantiles.q01)
    np.testing.assert_array_equal(again.q99, quantiles.q99)
    with pytest.raises(SigmaError, match="below q01 in dimension 1"):
        Quantiles(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    with pytest.raises(SigmaError, match="not finite"):
        Quantiles(np.array([0.0]), np.array([np.nan]))
