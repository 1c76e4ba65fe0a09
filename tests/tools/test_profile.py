"""Shipped profiles: complete, valid, and written into params.yaml with its comments kept."""

import re
import shutil
import subprocess

import pytest
from ruamel.yaml import YAML

from sigma.parameters import read_parameters
from sigma.parameters.schema import read_yaml
from sigma.shared.errors import SigmaError
from sigma.tools import profile
from tests.imports import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHERS = [name for name in profile.names() if name != profile.DEFAULT]


@pytest.fixture(autouse=True)
def checkout_without_git(monkeypatch):
    """The default profile is ``params.yaml`` as it lies in the checkout, committed or not."""
    monkeypatch.setattr(profile, "_committed", lambda _: None)


@pytest.fixture
def file(tmp_path):
    return shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*_):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(profile, "_latest", refuse)


@pytest.mark.parametrize("name", profile.names())
def test_every_profile_is_valid_and_names_every_parameter(name):
    values = profile.load(name)
    read_parameters(ROOT / "params.yaml", values)
    shipped = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert [key for key, _ in profile.leaves(values)] == [key for key, _ in profile.leaves(shipped)]


def test_the_shipped_parameter_file_is_the_default_profile():
    assert profile.names()[0] == "embedded"
    assert profile.differences("embedded", ROOT / "params.yaml") == []


def test_the_default_is_the_packages_copy_else_the_committed_file_else_the_file(tmp_path, monkeypatch):
    monkeypatch.undo()
    package = tmp_path / "sigma"
    (package / "profiles").mkdir(parents=True)
    file = tmp_path / "params.yaml"
    file.write_text("seed: 0\n")
    assert profile.default_values(package) == {"seed": 0}

    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("init", "-q"), ("add", "params.yaml"), (*identity, "commit", "-q", "-m", "file")):
        subprocess.run(("git", *command), cwd=tmp_path, check=True)
    file.write_text("seed: 1\n")
    assert profile.default_values(package) == {"seed": 0}

    (package / "profiles" / "embedded.yaml").write_text("seed: 2\n")
    assert profile.default_values(package) == {"seed": 2}


@pytest.mark.parametrize("name", OTHERS)
def test_a_profile_that_stands_on_another_repeats_none_of_its_values(name):
    raw = read_yaml(ROOT / f"sigma/profiles/{name}.yaml")
    parent = profile.load(raw.pop("extends"))
    inherited = dict(profile.leaves(parent))
    assert all(inherited[key] != value for key, value in profile.leaves(raw) if value is not None)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", OTHERS)
def test_using_a_profile_writes_its_values_keeps_every_comment_and_leads_back(file, name):
    before = file.read_text(encoding="utf-8")
    line = profile.use(name, file, {"base": COMMIT})
    after = file.read_text(encoding="utf-8")
    assert re.findall("#.*", after) == re.findall("#.*", before)
    assert "base pinned to 0123456789ab" in line and f"{len(profile.differences('embedded', file))} values" in line
    left = profile.differences(name, file)
    assert left == [("fetch.base.revision", COMMIT, None)]
    profile.use("embedded", file, {})
    assert file.read_text(encoding="utf-8") == before


def test_a_hub_id_without_a_commit_gets_the_hubs_latest(file, monkeypatch):
    asked = []
    monkeypatch.setattr(profile, "_latest", lambda *question: asked.append(question) or COMMIT)
    profile.use("pi05_so101", file, {})
    assert asked == [("lerobot/pi05_base", "base")]
    assert read_yaml(file)["fetch"]["base"]["revision"] == COMMIT


def test_an_unreachable_hub_is_one_line_that_says_what_to_give(file, monkeypatch):
    import huggingface_hub
    from httpx import ConnectError

    def fail(*_, **__):
        raise ConnectError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", fail)
    before = file.read_bytes()
    with pytest.raises(SigmaError, match=r"lerobot/pi05_base: .*no route.*--base-revision <40 hex digits>"):
        profile.use("pi05_so101", file, {})
    assert file.read_bytes() == before


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("name", "revisions", "message"),
    [
        ("pi06", {}, r"profile 'pi06' does not exist; legal: embedded, pi05_so101"),
        ("embedded", {"base": COMMIT}, r"--base-revision: .*'embedded' is no Hub id"),
        ("pi05_so101", {"base": "main"}, r"fetch\.base\.revision"),
    ],
)
def test_bad_requests_are_refused_and_change_nothing(file, name, revisions, message):
    before = file.read_bytes()
    with pytest.raises(SigmaError, match=message):
        profile.use(name, file, revisions)
    assert file.read_bytes() == before


@pytest.mark.usefixtures("no_hub")
def test_a_file_of_other_parameters_is_refused_by_name(file):
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r"\n  rank: 16 .*", "", text), encoding="utf-8")
    with pytest.raises(SigmaError, match=r"lora\.rank stands in this file or in the profile, not in both"):
        profile.use("pi05_so101", file, {"base": COMMIT})


def test_differences_name_both_values(file):
    file.write_text(file.read_text(encoding="utf-8").replace("  rank: 16 ", "  rank: 8 "), encoding="utf-8")
    assert profile.differences("embedded", file) == [("lora.rank", 8, 16)]
