"""``sigma finetune`` as a stage: all of the model folder or nothing, and no eye on the dataset."""

import pytest
from safetensors.torch import load_file

from sigma.commands.finetune import CURVES, MODEL
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json


def test_the_stage_reads_nothing_but_what_it_declares(own):
    """Of all that earlier stages wrote, these five are enough."""
    import shutil

    for path in sorted((own.root / "data").iterdir()):
        if path.name not in ("base.json", "shards", "features", "predictions", "start"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (own.root / "data/predictions/frames.parquet").unlink()
    own.run("finetune", changes={"train": {"steps": 1}})
    assert (own.root / MODEL / "config.json").is_file()


def test_the_configuration_says_how_the_model_came_about(trained):
    config = read_json(trained.root / MODEL / "config.json")
    assert config["format_version"] == 3 and config["memory_stride"] == 4 and config["selected_step"] in (3, 6)
    assert config["sizes"]["branches"] == ["condition", "vector", "chunk", "trajectory"]
    assert (config["sizes"]["memory"], config["sizes"]["present"]) == ("carried", "vision")
    assert config["base"]["digest"] == read_json(trained.root / "data/base.json")["digest"]
    assert "tensors" not in config["base"]
    names = load_file(trained.root / MODEL / "adapter_model.safetensors")
    towers = {name.split(".layers.")[0].split("paligemma_with_expert.")[1] for name in names}
    assert towers == {"paligemma.model.language_model", "gemma_expert.model"}


def test_a_failed_training_leaves_no_model(own, monkeypatch):
    import sigma.training.output as output

    def fail(*_, **__):
        raise SigmaError("the tokenizer could not be written")

    monkeypatch.setattr(output, "save_heads", fail)
    with pytest.raises(SigmaError, match="tokenizer"):
        own.run("finetune")
    assert not (own.root / "models").exists() or not list((own.root / "models").iterdir())
    assert not (own.root / CURVES).exists()
