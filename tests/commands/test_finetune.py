"""``sigma finetune`` as a stage: all of the model folder or nothing, and no eye on the dataset."""

import pytest
from safetensors.torch import load_file

from sigma.commands.finetune import CURVES, MODEL
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_json
from tests.worlds import ADAPTED


def test_the_stage_reads_nothing_but_what_it_declares(own):
    """Of all that earlier stages wrote, these four are enough."""
    import shutil

    for path in sorted((own.root / "data").iterdir()):
        if path.name not in ("base.json", "shards", "features", "predictions"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (own.root / "data/predictions/frames.parquet").unlink()
    own.run("finetune", changes={"train": {"steps": 1}})
    assert (own.root / MODEL / "config.json").is_file()


def test_the_configuration_says_how_the_model_came_about(trained, trained_adapted):
    frozen, adapted = (read_json(world.root / MODEL / "config.json") for world in (trained, trained_adapted))
    assert (frozen["branch"], adapted["branch"]) == ("frozen", "adapted")
    assert frozen["sizes"]["read_layers"] == [0, 1] and frozen["sizes"]["history"] == 3
    assert frozen["history_stride"] == 4 and frozen["selected_step"] in (3, 6)
    assert frozen["base"]["digest"] == read_json(trained.root / "data/base.json")["digest"]
    assert "tensors" not in frozen["base"]
    towers = [
        {name.split(".layers.")[0].split("paligemma_with_expert.")[1] for name in load_file(file)}
        for file in (world.root / MODEL / "adapter_model.safetensors" for world in (trained, trained_adapted))
    ]
    assert towers == [{"paligemma.model.language_model"}, {"paligemma.model.language_model", "gemma_expert.model"}]


def test_the_curves_of_every_phase_are_there(trained, trained_adapted):
    assert sorted(path.name for path in (trained.root / CURVES).iterdir()) == ["residual"]
    assert sorted(path.name for path in (trained_adapted.root / CURVES).iterdir()) == ["flow", "residual"]


@pytest.mark.parametrize("changes", [{}, ADAPTED])
def test_a_failed_training_leaves_no_model(own, monkeypatch, changes):
    import sigma.training.output as output

    def fail(*_, **__):
        raise SigmaError("the tokenizer could not be written")

    monkeypatch.setattr(output, "save_heads", fail)
    with pytest.raises(SigmaError, match="tokenizer"):
        own.run("finetune", changes=changes)
    assert not (own.root / "models").exists() or not list((own.root / "models").iterdir())
    assert not (own.root / CURVES).exists()
