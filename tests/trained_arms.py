"""Folders of trained arms for tests, of each kind, beside a small world."""

import json
import shutil
from pathlib import Path

from sigma.policy.adapter.calibration import read_calibration, write_calibration
from sigma.policy.model import lora
from sigma.policy.pi05.small.base_folder import save_base
from sigma.policy.pi05.small.tokenizer import build_tokenizer
from sigma.shared.files import digest_file, digest_folder
from tests.bases import STATISTICS, tiny_policy
from tests.worlds import World


def write_record(world: World, folder: Path, arm: str, kind: str, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    digest = digest_folder(world.root / "data/features")
    counts = dict.fromkeys(("seed", "steps", "selected_step", "trained_parameters"), 0)
    record = {"task": "pick_place", "arm": arm, "kind": kind, "validation": 0.1, "rate": 1.0, **counts}
    record |= {"shards_digest": digest_file(world.root / "data/shards/meta.json"), "features_digest": digest}
    record |= changes
    (folder / "arm.json").write_text(json.dumps(record))
    return folder


def write_sigma(world: World, folder: Path, arm: str = "told_motion") -> Path:
    """A copy of the world's trained Sigma."""
    shutil.copytree(world.root / "models/sigma", folder / "model")
    _copy_calibration(world, folder)
    return write_record(world, folder, arm, "sigma")


def _copy_calibration(world: World, folder: Path) -> None:
    """The calibration of the world's Sigma, as if it had been made with the weights in ``folder``."""
    write_calibration(
        folder / "adapter_calibration.json",
        read_calibration(world.root / "models/adapter_calibration.json"),
        folder / "model",
    )


def write_lora(world: World, folder: Path, arm: str = "plain_lora", kind: str = "lora") -> Path:
    """LoRA with random weights, so that it changes what the base does."""
    import torch

    adapted = lora.attach(world.base().policy, rank=2, alpha=4.0, dropout=0.0, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for parameter in lora.lora_parameters(adapted):
            torch.nn.init.normal_(parameter, std=0.5)
    lora.save(adapted, folder / "model")
    _copy_calibration(world, folder)
    return write_record(world, folder, arm, kind)


def write_full(world: World, folder: Path, arm: str = "full_finetune", **sizes) -> Path:
    """Another policy of the same form."""
    save_base(folder / "model", tiny_policy(7, **sizes), build_tokenizer(), STATISTICS)
    return write_record(world, folder, arm, "full")
