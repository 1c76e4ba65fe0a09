"""``sigma baseline`` as a stage: what it writes, from what, and that it writes all or nothing."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from sigma.commands.baseline import FEATURES, FRAMES, PREDICTIONS
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_file, digest_folder, read_json
from sigma.shared.tables import read_columns
from tests.worlds import World

OUTPUTS = (PREDICTIONS, FRAMES, FEATURES)


def digests(world: World) -> dict[str, str]:
    return {
        str(path): digest_folder(world.root / path) if (world.root / path).is_dir() else digest_file(world.root / path)
        for path in OUTPUTS
    }


def clear(world: World) -> None:
    """As DVC does before it runs a stage."""
    import shutil

    for path in OUTPUTS:
        full = world.root / path
        shutil.rmtree(full) if full.is_dir() else full.unlink()


def test_the_stage_reads_shards_alone_and_gives_the_same_bytes_again(own, prepared):
    assert not (own.root / "data/dataset").exists()
    clear(own)
    (line,) = own.run("baseline")
    assert line == "baseline: 46 windows, 2 samples each, 58 frames of features"
    assert digests(own) == digests(prepared)


def test_the_outputs_have_the_agreed_columns_and_shapes(prepared):
    columns, _ = read_columns(prepared.root / PREDICTIONS, ())
    shapes = {name: column.shape[1:] for name, column in columns.items()}
    assert shapes == {
        **{name: () for name in ("window", "episode", "step", "split", "task", "kept", "strided")},
        **{name: (8, 6) for name in ("action", "base_action", "base_zero_noise")},
        "base_samples": (2, 8, 6),
        "valid": (8,),
        "hold": (6,),
    }
    assert {name for name, column in columns.items() if column.dtype == np.float32} == {
        *("action", "base_action", "base_zero_noise", "base_samples", "hold")
    }
    features = load_file(prepared.root / FEATURES / "features.safetensors")
    shards = prepared.shards
    assert {name: tuple(tensor.shape) for name, tensor in features.items()} == {
        "pooled": (len(shards.frame_step), 4, 24),
        "views": (len(shards.frame_step), 4, 24),
        "text": (2, 24),
    }
    meta = read_json(prepared.root / FEATURES / "meta.json")
    assert meta["base_digest"] == read_json(prepared.root / "data/base.json")["digest"]
    assert (meta["pools"], meta["width"], meta["action"], meta["samples"]) == (4, 24, "zero_noise", 2)


@pytest.mark.parametrize("change", [{"seed": 1}, {"samples": 3}, {"action": "mean"}, {"statistics": "dataset"}])
def test_each_parameter_of_the_base_reaches_the_table(own, prepared, change):
    own.run("baseline", changes={"base": change})
    assert digests(own)[str(PREDICTIONS)] != digests(prepared)[str(PREDICTIONS)]
    assert digests(own)[str(FRAMES)] == digests(prepared)[str(FRAMES)]


def test_a_joint_that_stood_still_when_the_checkpoint_was_made_is_refused_where_its_statistics_are_chosen(own):
    clear(own)
    file = own.root / "data/base.json"
    base = read_json(file)
    base["statistics"]["action"]["q99"][2] = base["statistics"]["action"]["q01"][2]
    file.write_text(json.dumps(base))
    joint = own.shards.meta["joint_names"][2]
    with pytest.raises(
        SigmaError, match=f"base.statistics: found checkpoint, in which action of joint '{joint}' never"
    ):
        own.run("baseline")


def test_a_fault_leaves_no_output(own):
    clear(own)
    shard = own.root / "data/shards/shard_00000.pt"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(SigmaError, match=r"shard_00000\.pt: the shard is truncated"):
        own.run("baseline")
    assert not any((own.root / path).exists() for path in OUTPUTS)


def test_a_base_that_was_altered_since_fetch_is_refused(own, tmp_path):
    import shutil

    reference = read_json(own.root / "data/base.json")
    copy = tmp_path / "altered"
    shutil.copytree(reference["source"], copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    from sigma.shared.files import write_json

    write_json(own.root / "data/base.json", reference | {"source": str(copy)})
    with pytest.raises(SigmaError, match=r"tensor .* is not the one that was recorded"):
        own.run("baseline")
