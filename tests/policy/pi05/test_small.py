"""The small π0.5 is LeRobot's π0.5 with other sizes: same parts, same factory, same saved form."""

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from sigma.policy.pi05.small.base_folder import small_config
from sigma.policy.pi05.small.configuration_pi05_small import PI05SmallConfig
from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.shared.errors import SigmaError
from tests.bases import ACTION_DIM, CAMERAS, SIZES, STATE_DIM, STATISTICS, tiny_policy, write_tiny_base


def batch_of(size: int, policy: PI05SmallPolicy) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(size)
    side = policy.config.image_resolution[0]
    length = policy.config.tokenizer_max_length
    batch = {camera: torch.rand(size, 3, side, side, generator=draw) for camera in CAMERAS}
    batch["observation.language.tokens"] = torch.randint(0, 500, (size, length), generator=draw)
    batch["observation.language.attention_mask"] = torch.arange(length)[None] < torch.tensor([[20]] * size)
    batch["action"] = torch.randn(size, policy.config.chunk_size, ACTION_DIM, generator=draw)
    return batch


def test_the_factory_finds_the_policy_by_its_registered_type():
    assert PreTrainedConfig.get_choice_class("pi05_small") is PI05SmallConfig
    assert get_policy_class("pi05_small") is PI05SmallPolicy
    assert issubclass(PI05SmallPolicy, PI05Policy)


def test_training_loss_reaches_every_tensor_that_flow_matching_can_reach():
    policy = tiny_policy().train()
    loss, _ = policy.forward(batch_of(3, policy))
    loss.backward()
    still = {name for name, tensor in policy.named_parameters() if tensor.grad is None or not tensor.grad.any()}
    last = f"language_model.layers.{policy.config.depth - 1}."
    # The last language-model layer gives only its keys and values to the expert; the output embeddings are unused.
    unused = ("q_proj", "o_proj", "mlp", "post_attention_layernorm")
    unexpected = [
        name
        for name in still
        if "lm_head" not in name
        and "language_model.norm" not in name
        and not (last in name and any(part in name for part in unused))
    ]
    assert not unexpected
    assert any("lm_head" in name for name in still)


def test_images_text_and_noise_all_change_the_action():
    policy = tiny_policy()
    batch, noise = batch_of(2, policy), torch.zeros(2, policy.config.chunk_size, ACTION_DIM)
    base = policy.predict_action_chunk(batch, noise=noise)
    assert base.shape == (2, policy.config.chunk_size, ACTION_DIM)
    for key in (*CAMERAS, "observation.language.tokens"):
        changed = {**batch, key: batch[key].flip(0)}
        assert not torch.equal(policy.predict_action_chunk(changed, noise=noise), base), key
    assert not torch.equal(policy.predict_action_chunk(batch, noise=noise + 1), base)


def test_saved_policy_and_processors_load_through_lerobot_from_any_folder(tmp_path):
    folder = write_tiny_base(tmp_path / "first")
    moved = folder.rename(tmp_path / "second")
    policy = PI05SmallPolicy.from_pretrained(moved)
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(moved))
    state = torch.linspace(-40.0, 40.0, STATE_DIM)
    image = torch.rand(3, 32, 32)
    ready = before({CAMERAS[0]: image, CAMERAS[1]: image, "observation.state": state, "task": "lift the cube"})
    expected = STATISTICS["observation.state"].normalise(state)
    assert torch.equal(ready["observation.state"][0], expected)
    action = policy.predict_action_chunk(ready, noise=torch.zeros(1, 16, ACTION_DIM))
    raw = after(action)
    assert torch.equal(raw, STATISTICS["action"].unnormalise(action))


def test_the_processor_refuses_a_prompt_that_it_would_have_to_cut(tmp_path):
    folder = write_tiny_base(tmp_path / "base")
    policy = PI05SmallPolicy.from_pretrained(folder)
    before, _ = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    image, state = torch.rand(3, 32, 32), torch.zeros(STATE_DIM)
    with pytest.raises(SigmaError, match="at most 32"):
        before({CAMERAS[0]: image, CAMERAS[1]: image, "observation.state": state, "task": "lift the cube " * 9})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_size": 5}, "patch_size 5 does not divide"),
        ({"vision_heads": 3}, "vision_heads 3 does not divide"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"head_dim": 3}, "must be even"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(sizes, message):
    with pytest.raises(ValueError, match=message):
        small_config(CAMERAS, STATE_DIM, ACTION_DIM, **{**SIZES, **sizes})
