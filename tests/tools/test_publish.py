"""Publishing a trained Sigma: the folder, its card, the upload to a stub of the Hub, and what comes back from there."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from sigma import SigmaTelepathyAdapter, SigmaTelepathyVLA
from sigma.policy.adapter.calibration import read_calibration
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json, write_json
from sigma.shared.hub import snapshot
from sigma.tools import publish
from tests import hub as stub
from tests.worlds import inside

NAME = "somebody/my-sigma"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def reported(trained, tmp_path_factory):
    """A trained world with its report; read only."""
    world = trained.copy(tmp_path_factory.mktemp("worlds") / "reported")
    world.run("report")
    return world


@pytest.fixture
def world(reported, tmp_path):
    """The same in a folder of the test's own."""
    world = reported.copy(tmp_path / "world")
    shutil.copytree(reported.root / "metrics", world.root / "metrics", dirs_exist_ok=True)
    return world


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with stub.serve() as served:
        stub.connect(monkeypatch, served, tmp_path / "cache", token=stub.TOKEN)
        yield served


def run(world, folder="published", *, changes=None, **options) -> str:
    options = {"repository": NAME, "upload": False} | options
    parameters = world.configure(changes or {})
    with inside(world.root):
        return publish.run(parameters=parameters, folder=Path(folder), **options)


def refused(world, words, **options) -> str:
    with pytest.raises(SigmaError, match=words) as error:
        run(world, **options)
    assert "\n" not in str(error.value) and stub.TOKEN not in str(error.value)
    return str(error.value)


def observation(world) -> dict:
    views = len(read_json(world.root / "models/sigma/config.json")["cameras"])
    generator = torch.Generator().manual_seed(0)
    return {
        "vis_obs": torch.rand(2, 9, views, 3, 32, 32, generator=generator),
        "robot_state": 40 * torch.rand(2, 9, 6, generator=generator) - 20,
        "texts": ["push the cube", "lift the cube"],
    }


@torch.no_grad()
def test_what_is_published_comes_back_to_the_bit(world, hub):
    line = run(world, upload=True)
    commit = re.fullmatch(rf"publish: published written, .* MiB; uploaded to {NAME} at commit ([0-9a-f]{{40}})", line)
    folder = snapshot(NAME, commit[1], "model")
    assert digest_folder(folder) == digest_folder(world.root / "published")
    before = world.vla()
    after = SigmaTelepathyVLA.from_base(base_policy=world.base(), lora_dir=folder / "model")
    given = observation(world)
    expected, found = before(**given), after(**given)
    assert expected.keys() == found.keys() and expected["telepathy_residual_vector"].any()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor), name
    assert torch.equal(after.to_robot(found["base_action_chunk"]), before.to_robot(expected["base_action_chunk"]))
    # The adapter too: its settings and its calibration travel along.
    settings = world.configure().adapter.model_dump()
    own = SigmaTelepathyAdapter(
        **settings, calibration=read_calibration(world.root / "models/adapter_calibration.json")
    )
    theirs = SigmaTelepathyAdapter(
        **read_json(folder / "config.json")["adapter"],
        calibration=read_calibration(folder / "adapter_calibration.json"),
    )
    names = {
        "base_action_vector": expected["base_action_vector"],
        "telepathy_residual": expected["telepathy_residual_vector"],
        "telepathy_factors": expected["telepathy_factors"],
    }
    assert torch.equal(own(**names), theirs(**names))


@pytest.mark.minutes
def test_the_cards_own_lines_run(world, hub):
    commit = run(world, upload=True).split()[-1]
    text = (world.root / "published/README.md").read_text(encoding="utf-8")
    code = re.search("```python\n(.*?)```", text, re.DOTALL)[1]
    code = code.replace("<commit>", commit).replace("<folder of base>", str(world.root / "base"))
    names: dict = {}
    exec(code, names)
    assert isinstance(names["sigma"], SigmaTelepathyVLA) and isinstance(names["adapter"], SigmaTelepathyAdapter)


def test_the_folder_holds_everything_and_no_pickle_and_no_path_of_this_machine(world):
    assert "nothing was uploaded" in run(world)
    folder = world.root / "published"
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()) == [
        "README.md",
        "adapter_calibration.json",
        "adapter_calibration.safetensors",
        "base.json",
        "config.json",
        "model/adapter_config.json",
        "model/adapter_model.safetensors",
        "model/config.json",
        "model/sigma_telepathy_heads.safetensors",
        "model/tokenizer/tokenizer.json",
        "model/tokenizer/tokenizer_config.json",
        "policy_postprocessor.json",
        "policy_preprocessor.json",
        "statistics.json",
    ]
    for file in folder.rglob("*"):
        assert not file.is_file() or str(world.root.parent).encode() not in file.read_bytes(), file
    config = read_json(folder / "model/config.json")
    assert (config["base"]["source"], config["dataset"]["source"]) == ("base", "recorded")
    action = read_json(folder / "statistics.json")["action"]
    from tests.bases import STATISTICS

    np.testing.assert_allclose(action["q01"], STATISTICS["action"].q01)
    run(world, folder)  # an earlier publish is replaced


def test_the_card_tells_the_metrics_with_their_intervals(world):
    run(world)
    card = (world.root / "published/README.md").read_text(encoding="utf-8")
    test = read_json(world.root / "metrics/check_b.json")["test"]
    row = re.search(r"^\| frozen π0\.5 \| (.*) \|$", card, re.MULTILINE)[1].split(" | ")
    for metric, cell in zip(("mse_vec", "mse_chk", "mse_trj", "mse_plan"), row, strict=True):
        numbers = [float(text) for text in re.findall(r"[\d.]+", cell.replace("−", ""))]
        expected = [abs(test[metric][key]) for key in ("baseline", "delta_lo", "delta_hi")]
        np.testing.assert_allclose(numbers, expected, atol=5e-5)
    matter = YAML(typ="safe").load(card.split("---\n")[1])
    assert matter["license"] == "apache-2.0" and matter["library_name"] == "lerobot"
    assert "base_model" not in matter and "datasets" not in matter
    heads = read_json(world.root / "metrics/provenance.json")["heads"]["digest"]
    base = read_json(world.root / "data/base.json")["digest"]
    for words in (heads, base, "Research only", "a local folder named `base`", "emergency stop"):
        assert words in card
    assert "Closed loop" not in card


def test_the_card_links_what_is_on_the_hub(world):
    file = world.root / "models/sigma/config.json"
    config = read_json(file)
    config["base"] |= {"source": "lerobot/pi05_base", "revision": COMMIT}
    config["dataset"] |= {"source": "lerobot/svla_so101_pickplace", "revision": COMMIT}
    write_json(file, config)
    run(world, license="mit")
    card = (world.root / "published/README.md").read_text(encoding="utf-8")
    matter = YAML(typ="safe").load(card.split("---\n")[1])
    assert (matter["license"], matter["base_model"]) == ("mit", "lerobot/pi05_base")
    assert matter["datasets"] == ["lerobot/svla_so101_pickplace"]
    assert f"https://huggingface.co/datasets/lerobot/svla_so101_pickplace) at commit `{COMMIT}`" in card
    assert 'load_base(read_json(f"{folder}/base.json"), dtype=' in card


def test_metrics_of_another_model_are_refused(world):
    file = world.root / "metrics/check_a.json"
    record = read_json(file)
    record["digest"]["sigma"] = "0" * 64
    write_json(file, record)
    refused(world, r"check_a\.json: made with heads 0{12}, .*run `dvc repro`")
    (world.root / "metrics/provenance.json").unlink()
    refused(world, r"provenance\.json: not found")
    assert not (world.root / "published").exists()


def test_adapter_settings_that_the_report_did_not_use_are_refused(world):
    adapter = world.configure().adapter.model_dump()
    lock = {"schema": "2.0", "stages": {"report": {"params": {"params.yaml": {"adapter": adapter}}}}}
    (world.root / "dvc.lock").write_text(json.dumps(lock))
    run(world)
    refused(world, "adapter: the metrics were made with other values", changes={"adapter": {"false_alarms": 0.5}})


@pytest.mark.parametrize(
    "missing", ["models/sigma/adapter_model.safetensors", "models/sigma/config.json", "models/adapter_calibration.json"]
)
def test_what_is_missing_is_named(world, missing):
    (world.root / missing).unlink()
    refused(world, re.escape(missing))
    assert not (world.root / "published").exists()


def test_a_folder_that_holds_something_else_is_left_alone(world):
    (world.root / "mine").mkdir()
    (world.root / "mine/notes.txt").write_text("x")
    refused(world, "mine: holds something else", folder="mine")
    assert (world.root / "mine/notes.txt").is_file()
    (world.root / "mine/README.md").write_text("# Mine")
    refused(world, "mine: holds something else", folder="mine")


def test_without_a_token_nothing_is_written_or_asked(world, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    refused(world, "no Hub token; set HF_TOKEN", upload=True)
    refused(world, "'my sigma' is no Hub id; legal: owner/name", repository="my sigma", upload=True)
    assert not hub.requests and not (world.root / "published").exists()


def test_a_token_that_may_not_write_is_one_line_without_it(world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongToken")
    assert "hf_wrongToken" not in refused(world, f"{NAME}: the Hub answered 401 .*set HF_TOKEN", upload=True)
    assert not hub.repositories


@pytest.mark.minutes
def test_an_existing_repository_gets_a_commit_and_keeps_its_other_files(world, hub):
    kept = stub.Repository("model", NAME)
    kept.commit({"demo.txt": b"mine"})
    hub.repositories["model", NAME] = kept
    run(world, upload=True)
    run(world, upload=True, license="mit")
    assert len(kept.commits) == 3
    files = hub.files("model", NAME)
    assert files["demo.txt"] == b"mine" and b"license: mit" in files["README.md"]
    assert hub.repositories["model", NAME].access == "open"


def test_a_new_repository_is_private_unless_asked(world, hub):
    run(world, upload=True)
    run(world, upload=True, repository="somebody/open", private=False)
    access = {name: repository.access for (_, name), repository in hub.repositories.items()}
    assert access == {NAME: "private", "somebody/open": "open"}


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda files: files.pop("model/adapter_config.json"), "model/adapter_config.json is not there"),
        (lambda files: files.update({"config.json": b"{}"}), "config.json has another content"),
        (
            lambda files: files.update({"model/adapter_model.safetensors": b""}),
            "model/adapter_model.safetensors has another content",
        ),
    ],
)
def test_what_the_hub_holds_is_compared_with_what_was_sent(world, hub, monkeypatch, alter, words):
    commit = stub.Repository.commit

    def altered(self, files, message=""):
        alter(files)
        return commit(self, files, message)

    monkeypatch.setattr(stub.Repository, "commit", altered)
    refused(world, words, upload=True)
