"""Datasets and bases from the Hub, against a stub of it on loopback: what arrives, and what each fault becomes."""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sigma.commands import fetch
from sigma.data.dataset import origin as fetching
from sigma.policy.pi05 import base as bases
from sigma.policy.pi05.base_origin import resolve_base
from sigma.policy.pi05.description import describe_base
from sigma.shared.errors import SigmaError
from sigma.shared.files import digest_folder, read_json
from sigma.shared.hub import snapshot
from tests import hub as stub
from tests.commands.data_stages import parameters
from tests.datasets import write_dataset
from tests.imports import ROOT

DATASET, BASE = "somebody/pickplace", "somebody/pi05_small"
WEIGHTS = "model.safetensors"
TOKENIZER = "google/paligemma-3b-pt-224"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A recorded dataset and a tiny base; read only."""
    from tests.bases import write_tiny_base

    root = tmp_path_factory.mktemp("hub")
    write_dataset(root / "dataset", lengths=(28, 25))
    write_tiny_base(root / "base")
    return root


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with stub.serve() as served:
        stub.connect(monkeypatch, served, tmp_path / "cache")
        yield served


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def both(hub, folders):
    """The commits of dataset and base on the stub."""
    return hub.add("dataset", DATASET, folders / "dataset"), hub.add("model", BASE, folders / "base")


def from_hub(both):
    dataset, base = both
    return parameters(
        DATASET,
        BASE,
        fetch__dataset__revision=dataset,
        fetch__base__revision=base,
        window__validation=0,  # of its two episodes none can be held out
        window__test=0,
    )


def refused(words: str, call, *arguments, **options) -> str:
    with pytest.raises(SigmaError, match=words) as error:
        call(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message and stub.TOKEN not in message
    return message


def test_fetch_brings_both_from_the_hub_at_their_commits(hub, both, folders, project):
    fetch.run(from_hub(both))
    assert digest_folder(Path("data/dataset")) == digest_folder(folders / "dataset")
    record, base = read_json("data/dataset.json"), read_json("data/base.json")
    assert (record["source"], record["revision"]) == (DATASET, both[0])
    assert (base["source"], base["revision"]) == (BASE, both[1])
    assert base["digest"] == describe_base(str(folders / "base"), None)["digest"]
    # Later commits change nothing: the revision is what was asked for.
    (key,) = (key for key in hub.repositories if key[0] == "dataset")
    hub.repositories[key].commit({"meta/info.json": b"{}"})
    fetch.run(from_hub(both))
    assert digest_folder(Path("data/dataset")) == digest_folder(folders / "dataset")


def test_a_second_run_asks_nothing_and_works_without_a_network(hub, both, folders, project, monkeypatch):
    from huggingface_hub import constants

    fetch.run(from_hub(both))
    first, asked = read_json("data/base.json"), len(hub.requests)
    assert asked > 0
    fetch.run(from_hub(both))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.rmtree("data")
    fetch.run(from_hub(both))
    assert len(hub.requests) == asked
    assert read_json("data/base.json") == first
    assert bases.load_base(first).reference == first


def test_the_environment_alone_leads_to_the_stub_and_the_token_goes_to_the_hub_only(hub, folders, tmp_path):
    commit = hub.add("dataset", DATASET, folders / "dataset", access="private")
    code = f"from sigma.data.dataset.origin import locate_dataset; print(locate_dataset({DATASET!r}, {commit!r}))"
    home = tmp_path / "home"
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": stub.TOKEN, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(home)
    assert stub.TOKEN not in done.stdout + done.stderr
    at_hub = [one for one in hub.requests if one.host.startswith("127.") and DATASET in one.path]
    at_cdn = [one for one in hub.requests if one.host.startswith("localhost")]
    assert at_hub and at_cdn and not any(one.authorized for one in at_cdn)
    assert [one.path for one in at_hub if not one.authorized] == []


@pytest.mark.parametrize("access", ["private", "gated"])
def test_without_access_every_part_says_so_in_one_line(hub, folders, access):
    dataset = hub.add("dataset", DATASET, folders / "dataset", access=access)
    base = hub.add("model", BASE, folders / "base", access=access)
    said = {
        "private": "the Hub shows no such {kind}: check its id, and set HF_TOKEN .*where it is private",
        "gated": "the {kind} is gated: accept its licence at https://huggingface.co/{page} and set HF_TOKEN",
    }[access]
    words = said.format(kind="dataset", page=f"datasets/{DATASET}")
    refused(f"^{DATASET}@{dataset}: {words}", fetching.locate_dataset, DATASET, dataset)
    refused(f"^{BASE}@{base}: {said.format(kind='model', page=BASE)}", resolve_base, BASE, base)


def test_a_wrong_token_is_not_told(hub, folders, monkeypatch, tmp_path):
    base = hub.add("model", BASE, folders / "base", access="private")
    monkeypatch.setenv("HF_TOKEN", "hf_wrongToken")
    assert "hf_wrongToken" not in refused(f"{BASE}@", resolve_base, BASE, base)
    stub.connect(monkeypatch, hub, tmp_path / "cache", token=stub.TOKEN)
    assert (resolve_base(BASE, base) / WEIGHTS).is_file()


def test_what_the_hub_does_not_have_is_named(hub, both):
    stranger = "f" * 40
    refused(f"^{DATASET}@{stranger}: the Hub has no such commit", fetching.locate_dataset, DATASET, stranger)
    refused(f"^{BASE}@{stranger}: the Hub has no such commit", resolve_base, BASE, stranger)
    refused(f"^some/thing@{stranger}: the Hub shows no such dataset", fetching.locate_dataset, "some/thing", stranger)
    refused(f"^some/thing@{stranger}: the Hub shows no such model", resolve_base, "some/thing", stranger)


@pytest.fixture
def apart(folders, tmp_path) -> Path:
    """A base that has no tokenizer of its own: its pre-processor names :data:`TOKENIZER`."""
    folder = shutil.copytree(folders / "base", tmp_path / "copy")
    shutil.rmtree(folder / "tokenizer")
    file = folder / "policy_preprocessor.json"
    steps = json.loads(file.read_text())
    for step in steps["steps"]:
        if "tokenizer_json" in step.get("config", {}):
            step.pop("class", None)
            step["registry_name"] = "tokenizer_processor"
            step["config"] = {"tokenizer_name": TOKENIZER}
    file.write_text(json.dumps(steps))
    return folder


def later_tokenizer(hub, folders) -> str:
    """A later commit of the tokenizer's repository, in which two words have each other's numbers."""
    files = {file.name: file.read_bytes() for file in (folders / "base/tokenizer").iterdir()}
    content = json.loads(files["tokenizer.json"])
    words = content["model"]["vocab"]
    words["lift"], words["push"] = words["push"], words["lift"]
    return hub.repositories["model", TOKENIZER].commit(files | {"tokenizer.json": json.dumps(content).encode()})


def prompt_of(base) -> list[int]:
    return base.prompter(["lift the cube"], np.zeros((1, 6), dtype=np.float32)).tokens[0].tolist()


def test_a_gated_tokenizer_is_named_with_what_to_do(hub, folders, apart):
    hub.add("model", TOKENIZER, folders / "base" / "tokenizer", access="gated")
    commit = hub.add("model", BASE, apart)
    words = f"the model is gated: accept its licence at https://huggingface.co/{TOKENIZER} and set HF_TOKEN"
    refused(f"^{TOKENIZER}: {words}", describe_base, BASE, commit)
    # A base in a folder stands on the same tokenizer.
    refused(f"^{TOKENIZER}: {words}", describe_base, str(apart), None)


def test_a_tokenizer_in_another_repository_is_pinned_to_its_commit(hub, folders, apart):
    pinned = hub.add("model", TOKENIZER, folders / "base" / "tokenizer")
    commit = hub.add("model", BASE, apart)
    whole = describe_base(str(folders / "base"), None)
    assert whole["tokenizer_origin"] is None
    for source, revision in ((BASE, commit), (str(apart), None)):
        reference = describe_base(source, revision)
        assert reference["tokenizer_origin"] == {"source": TOKENIZER, "revision": pinned}
        assert re.fullmatch("[0-9a-f]{40}", reference["tokenizer_origin"]["revision"])
        assert reference["digest"] == whole["digest"], "where a part lies is no part of what the base is"
        assert prompt_of(bases.load_base(reference)) == prompt_of(bases.load_base(whole))


def test_of_a_tokenizers_repository_no_weights_are_fetched(hub, folders, apart, tmp_path):
    """PaliGemma's own repository, which π0.5 names, holds eleven gigabytes of them."""
    words = shutil.copytree(folders / "base" / "tokenizer", tmp_path / "words")
    (words / "model-00001-of-00001.safetensors").write_bytes(bytes(4096))
    hub.add("model", TOKENIZER, words)
    bases.load_base(describe_base(BASE, hub.add("model", BASE, apart)))
    assert hub.downloads("tokenizer.json") and hub.downloads(WEIGHTS)
    assert not hub.downloads("model-00001-of-00001.safetensors")


def test_a_later_tokenizer_changes_nothing_for_a_base_that_was_fetched(hub, folders, apart, tmp_path):
    first = hub.add("model", TOKENIZER, folders / "base" / "tokenizer")
    commit = hub.add("model", BASE, apart)
    reference = describe_base(BASE, commit)
    expected = prompt_of(bases.load_base(reference))
    later = later_tokenizer(hub, folders)
    for _ in range(2):
        assert prompt_of(bases.load_base(reference, download=True)) == expected
        shutil.rmtree(tmp_path / "cache")  # the second time everything is fetched anew
    again = describe_base(BASE, commit)
    assert (first, later) == tuple(one["tokenizer_origin"]["revision"] for one in (reference, again))
    assert again["digest"] != reference["digest"]
    assert prompt_of(bases.load_base(again)) != expected
    moved = reference | {"tokenizer_origin": again["tokenizer_origin"]}
    refused("its tokenizer is not the one that was recorded; fetch the base again", bases.load_base, moved)


@pytest.mark.parametrize("way", ["offline", "gone"])
def test_a_base_with_a_tokenizer_elsewhere_is_described_and_loaded_from_the_cache(
    hub, folders, apart, monkeypatch, tmp_path, way
):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    hub.add("model", TOKENIZER, folders / "base" / "tokenizer")
    commit = hub.add("model", BASE, apart)
    reference = describe_base(BASE, commit)
    if way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        with stub.serve() as gone:
            pass
        stub.connect(monkeypatch, gone, tmp_path / "cache")
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    asked = len(hub.requests)
    assert bases.load_base(reference).reference == reference
    assert describe_base(BASE, commit) == reference
    assert len(hub.requests) == asked
    shutil.rmtree(tmp_path / "cache" / f"models--{TOKENIZER.replace('/', '--')}")
    words = "(not whole in the cache .*cannot be reached|the connection failed)"
    refused(f"^{TOKENIZER}: .*{words}", describe_base, BASE, commit)


def test_an_altered_tokenizer_is_refused_by_the_first_fetch(hub, folders, apart):
    pinned = hub.add("model", TOKENIZER, folders / "base" / "tokenizer")
    commit = hub.add("model", BASE, apart)
    content = (folders / "base/tokenizer/tokenizer.json").read_bytes()
    hub.altered["tokenizer.json"] = content.replace(b"lift", b"lifd")
    words = f"^{TOKENIZER}@{pinned}: tokenizer.json: its content has the digest"
    refused(words, describe_base, BASE, commit)


def test_files_that_are_no_tokenizer_are_one_line(hub, folders, apart, tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words/tokenizer.json").write_text("{}")
    hub.add("model", TOKENIZER, tmp_path / "words")
    commit = hub.add("model", BASE, apart)
    refused("not readable as a tokenizer", describe_base, BASE, commit)


def test_a_cut_connection_goes_on_where_it_was(hub, both, folders):
    hub.cuts[WEIGHTS] = 2
    folder = resolve_base(BASE, both[1])
    assert (folder / WEIGHTS).read_bytes() == (folders / "base" / WEIGHTS).read_bytes()
    size = (folder / WEIGHTS).stat().st_size
    # Half of what was left came through each time, of that the whole chunks were written.
    first = size // 2 // stub.CHUNK * stub.CHUNK
    second = first + (size - first) // 2 // stub.CHUNK * stub.CHUNK
    assert [one.range for one in hub.downloads(WEIGHTS)] == [None, f"bytes={first}-", f"bytes={second}-"]


def test_after_a_reset_connection_finished_files_are_not_fetched_again(hub, both, folders):
    hub.resets[WEIGHTS] = 1
    refused(f"^{BASE}@{both[1]}: the connection failed .*run it again", resolve_base, BASE, both[1])
    before = len(hub.requests)
    folder = resolve_base(BASE, both[1])
    assert digest_folder(folder) == digest_folder(folders / "base")
    assert len(hub.downloads(WEIGHTS)) == 2
    # Small files of the first attempt are not asked for again; which of them it had finished is a matter of threads.
    again = {one.path for one in hub.requests[before:] if one.method == "GET"}
    assert len([path for path in again if path.endswith(WEIGHTS)]) == 1
    assert not any("/tree/" in path for path in again)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("CAS Client Error: Connection refused (os error 111)", "the connection failed .CAS Client .*run it again"),
        ("I/O error: No space left on device (os error 28)", "no space is left for the cache"),
    ],
)
def test_what_hf_xet_raises_is_one_line(hub, both, project, monkeypatch, told, words):
    """The Hub itself serves large files by Xet, whose client raises a RuntimeError for everything."""
    from huggingface_hub import file_download

    def broken(*_, **__):
        raise RuntimeError(told)

    monkeypatch.setattr(file_download, "http_get", broken)
    refused(f"^{BASE}@{both[1]}: {words}", resolve_base, BASE, both[1])
    refused(f"^{DATASET}@{both[0]}: {words}", fetch.run, from_hub(both))


def test_a_full_disk_leaves_nothing_half_and_the_next_run_goes_on(hub, both, folders, project, monkeypatch):
    from huggingface_hub import file_download

    class Full(io.BufferedIOBase):
        """A file on a disk that has room for a thousand bytes."""

        def __init__(self, file):
            self.file, self.room = file, 1000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

    download = file_download.http_get
    monkeypatch.setattr(file_download, "http_get", lambda url, file, **rest: download(url, Full(file), **rest))
    cache = Path(file_download.constants.HF_HUB_CACHE)
    words = f"no space is left for the cache {re.escape(str(cache))}; free some, or set HF_HOME elsewhere"
    refused(f"^{BASE}@{both[1]}: {words}", resolve_base, BASE, both[1])
    refused(f"^{DATASET}@{both[0]}: {words}", fetching.locate_dataset, DATASET, both[0])
    refused(words, fetch.run, from_hub(both))
    assert not Path("data").exists()
    assert not list(cache.rglob("*.incomplete"))
    monkeypatch.setattr(file_download, "http_get", download)
    fetch.run(from_hub(both))
    assert digest_folder(Path("data/dataset")) == digest_folder(folders / "dataset")


def test_an_altered_file_is_refused_when_the_base_is_loaded(hub, both, folders, tmp_path):
    """The record of an earlier fetch protects every later one, whoever serves it."""
    reference = describe_base(BASE, both[1])
    content = bytearray((folders / "base" / WEIGHTS).read_bytes())
    content[-1] ^= 1
    shutil.rmtree(tmp_path / "cache")
    hub.altered[WEIGHTS] = bytes(content)
    asked = len(hub.requests)
    refused(r"it is not whole in the cache .*; fetch it again \(sigma fetch\)", bases.load_base, reference)
    assert len(hub.requests) == asked, "only fetching asks the Hub"
    refused("is not the one that was recorded", bases.load_base, reference, download=True)


def test_a_truncated_file_is_refused(hub, both, folders):
    content = (folders / "base" / WEIGHTS).read_bytes()
    hub.altered[WEIGHTS] = content[:-8]
    refused(f"{BASE}@.*should be of size {len(content)}", resolve_base, BASE, both[1])


def test_a_snapshot_has_the_content_that_the_hub_names(hub, both, folders):
    assert digest_folder(snapshot(DATASET, both[0], "dataset")) == digest_folder(folders / "dataset")
    asked = len(hub.requests)
    only = snapshot(BASE, both[1], "model", patterns=["*.json"])
    assert len(hub.requests) > asked and not (only / WEIGHTS).exists()


@pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
def test_another_content_under_the_same_size_is_refused_and_fetched_anew(hub, both, folders, path):
    content = bytearray((folders / "base" / path).read_bytes())
    content[len(content) // 2] ^= 1
    hub.altered[path] = bytes(content)
    refused(f"{BASE}@{both[1]}: {path}: its content has the digest .* the Hub names", snapshot, BASE, both[1], "model")
    hub.altered.clear()
    assert digest_folder(snapshot(BASE, both[1], "model")) == digest_folder(folders / "base")


def test_every_fault_of_the_hub_says_what_to_do(hub, folders, monkeypatch):
    from huggingface_hub import constants

    gated = hub.add("model", "some/gated", folders / "base", access="gated")
    private = hub.add("model", "some/private", folders / "base", access="private")
    commit = hub.add("model", BASE, folders / "base")
    licence = "accept its licence at https://huggingface.co/some/gated and set HF_TOKEN"
    refused(licence, snapshot, "some/gated", gated, "model")
    refused("shows no such model: .*set HF_TOKEN", snapshot, "some/private", private, "model")
    refused("has no such commit", snapshot, BASE, "f" * 40, "model")
    hub.resets[WEIGHTS] = 1
    refused("the connection failed .*run it again, finished files are kept", snapshot, BASE, commit, "model")
    assert (snapshot(BASE, commit, "model") / WEIGHTS).is_file()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("not whole in the cache .*cannot be reached", snapshot, "some/private", private, "model")


def test_a_hub_that_does_not_answer_is_one_line(hub, both, monkeypatch, tmp_path):
    from huggingface_hub.utils import _http

    with stub.serve() as gone:
        pass
    stub.connect(monkeypatch, gone, tmp_path / "other")
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    refused("the connection failed", snapshot, DATASET, both[0], "dataset")


def test_a_reset_connection_is_one_line_for_a_dataset(hub, both):
    hub.resets["data/chunk-000/file-000.parquet"] = 1
    refused(f"{DATASET}@{both[0]}: the connection failed", fetching.locate_dataset, DATASET, both[0])


def test_no_answer_is_one_line_for_a_dataset(hub, both, monkeypatch, tmp_path):
    from huggingface_hub.utils import _http

    with stub.serve() as gone:
        pass
    stub.connect(monkeypatch, gone, tmp_path / "other")
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    refused(f"{DATASET}@{both[0]}: the connection failed", fetching.locate_dataset, DATASET, both[0])


@pytest.mark.parametrize("path", [WEIGHTS, "data/chunk-000/file-000.parquet"])
def test_another_content_is_refused_by_the_first_fetch(hub, both, folders, project, path):
    content = bytearray((folders / ("base" if path == WEIGHTS else "dataset") / path).read_bytes())
    content[-9] ^= 1
    hub.altered[path] = bytes(content)
    refused(f"{path}: its content has the digest", fetch.run, from_hub(both))


def test_a_disk_that_fills_up_under_the_copy_is_one_line_and_leaves_nothing(hub, both, project, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching.shutil, "copyfile", full)
    refused("data/dataset: .*No space left on device", fetch.run, from_hub(both))
    assert not [item for item in Path("data").rglob("*") if item.is_file()]
