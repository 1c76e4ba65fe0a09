"""``sigma merge``: LoRA that LeRobot trained, put on its base."""

import shutil

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from sigma.policy.pi05.base import load_base
from sigma.policy.pi05.description import describe_base
from sigma.policy.pi05.small.modeling_pi05_small import PI05SmallPolicy
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json, write_json
from sigma.tools import merge
from tests.bases import write_tiny_base


@pytest.fixture
def lora(tmp_path):
    """A checkpoint as ``lerobot-train --peft.method_type=LORA`` saves it; the base's own folder is beside it."""
    base = write_tiny_base(tmp_path / "base")
    policy = PI05SmallPolicy.from_pretrained(base)
    targets = policy._get_default_peft_targets()["target_modules"]
    model = get_peft_model(policy, LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_rslora=True))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(str(tmp_path / "lora"))
    for file in base.glob("policy_p*"):
        shutil.copyfile(file, tmp_path / "lora" / file.name)
    shutil.copytree(base / "tokenizer", tmp_path / "lora/tokenizer")
    write_json(tmp_path / "lora/config.json", read_json(base / "config.json") | {"use_peft": True})
    return tmp_path / "lora", model


def test_merged_weights_are_those_of_peft_and_serve_as_a_base(lora, tmp_path):
    folder, model = lora
    line = merge.run(lora=folder, output=tmp_path / "merged")
    assert line == f"merge: {folder} on {tmp_path / 'base'} written to {tmp_path / 'merged'}"
    policy = load_base(describe_base(str(tmp_path / "merged"), None)).policy
    expected = model.merge_and_unload().state_dict()
    plain = PI05SmallPolicy.from_pretrained(tmp_path / "base").state_dict()
    changed = [name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, plain[name])]
    assert "model.action_in_proj.weight" in changed and len(changed) == 6
    for name, tensor in policy.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)
    assert PreTrainedConfig.from_pretrained(tmp_path / "merged").use_peft is False


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(lora, tmp_path):
    folder, _ = lora

    def refused(match: str, **options) -> None:
        with pytest.raises(SigmaError, match=match):
            merge.run(**{"lora": folder, "output": tmp_path / "merged"} | options)
        assert not (tmp_path / "merged").exists()

    other = write_tiny_base(tmp_path / "other", expert_width=32)
    refused(r"is not of the shape", base=str(other))
    shallow = write_tiny_base(tmp_path / "shallow", depth=1)
    refused(r"shallow has no place for base_model\.model\.model\..*; give its base: --base", base=str(shallow))
    refused(r"no such folder, and not a Hub id", base=str(tmp_path / "nowhere"))
    settings = read_json(folder / "adapter_config.json")
    for change, match in (
        ({"use_dora": True}, r"adapter_config\.json: use_dora is True; legal: False"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is"),
        ({"base_model_name_or_path": None}, "names no base; give it: --base"),
    ):
        write_json(folder / "adapter_config.json", settings | change)
        refused(match)
    write_json(folder / "adapter_config.json", settings)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.lost": torch.zeros(1)}, folder / "adapter_model.safetensors")
    refused(r"has no place for base_model\.model\.lost")
