"""What the source may not do: unpickle, evaluate, run a shell, or reach for the Hub where nothing says so."""

import ast
import tomllib
from collections.abc import Iterator

import pytest

from tests.imports import ROOT, closure

SOURCES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "sigma").rglob("*.py"))]
SOURCES.append("lerobot_policy_sigma.py")
# Modules whose readers run what a file says.
UNPICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "full_load", "load_all", "system", "popen"}
# What of huggingface_hub asks nobody: exceptions, types, and what reads the cache.
LOCAL = {
    "RepoFile",
    "constants",
    "get_token",
    "get_cached_repo_tree",
    "try_to_load_from_cache",
    *("EvalResult", "ModelCard", "ModelCardData"),
}
NETWORK = {"socket", "ssl", "http", "urllib.request", "requests", "aiohttp", "ftplib", "smtplib", "paramiko"}
CLUSTER = ("sigma/compute/workers.py", "socket")  # asks whether the cluster that params.yaml names answers
ASKS = {
    "sigma/shared/hub.py": "fetch; the download itself",
    "sigma/tools/publish.py": "publish; the upload",
    "sigma/tools/plan.py": "plan; sizes of what is not fetched yet",
    "sigma/tools/profile.py": "profile use; the commit that a profile is pinned to",
    "sigma/policy/lerobot/policy_folder.py": "LeRobot plugin; a published policy",
}


def tree(file: str) -> ast.AST:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def imported(file: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, at the top or inside functions; the name is empty for a whole module."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def calls(file: str) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """The dotted name of every call, and its keywords."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: word.value for word in node.keywords if word.arg}


def is_constant(value: ast.expr | None, wanted: object) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


@pytest.mark.parametrize("file", SOURCES)
def test_nothing_is_unpickled_or_evaluated(file):
    for module, name in imported(file):
        assert module.partition(".")[0] not in UNPICKLING, f"imports {module}"
        assert (module, name) not in {("joblib", "load"), ("joblib", "dump"), ("yaml", "load")}
        assert module.partition(".")[0] != "yaml", "ruamel.yaml is the one reader of YAML"
    for called, words in calls(file):
        last = called.rpartition(".")[2]
        assert called not in CALLS and last not in METHODS, called
        if called in ("torch.load", "torch.jit.load") or last == "load_state_dict_from_url":
            assert is_constant(words.get("weights_only"), True), f"{called} without weights_only=True"
        if last == "YAML":
            assert not words or words.keys() <= {"typ", "pure"}, "the safe or the round-trip reader"
            assert ast.unparse(words.get("typ", ast.Constant("safe"))) == "'safe'", called
        assert not is_constant(words.get("allow_pickle"), True), f"{called} with allow_pickle"
        assert not is_constant(words.get("trust_remote_code"), True), f"{called} with trust_remote_code"
        assert not is_constant(words.get("shell"), True), f"{called} through a shell"


def test_what_could_bring_code_of_its_own_is_told_not_to():
    for file in SOURCES:
        for called, words in calls(file):
            if called.endswith("AutoTokenizer.from_pretrained"):
                assert is_constant(words.get("trust_remote_code"), False), f"{file}: {called}"


def test_torch_files_are_read_in_one_place():
    readers = {file for file in SOURCES for called, _ in calls(file) if called == "torch.load"}
    assert readers == {"sigma/shared/files.py"}


def test_the_hub_is_asked_by_these_modules_and_no_other():
    asking = {
        file
        for file in SOURCES
        for module, name in imported(file)
        if module.partition(".")[0] == "huggingface_hub"
        and not module.startswith("huggingface_hub.errors")
        and name not in LOCAL
    }
    assert asking == set(ASKS)


def test_no_module_opens_a_connection_itself():
    for file in SOURCES:
        for module, name in imported(file):
            if (file, module) == CLUSTER:
                continue
            assert module not in NETWORK and module.partition(".")[0] not in NETWORK, f"{file} imports {module}"
            if module.partition(".")[0] == "httpx":
                assert name == "HTTPError", f"{file} uses httpx"


def test_of_the_stages_fetch_alone_describes_a_base_which_is_what_downloads():
    """Every other stage loads a base that was fetched, and that takes the cache alone; see tests/shared/test_hub.py."""
    asking = {"describe_base", "locate_dataset", "find_dataset", "newest_commit", "snapshot", "resolve_base"}
    own = {"sigma/shared/hub.py", "sigma/data/dataset/origin.py"}
    own |= {f"sigma/policy/pi05/{name}.py" for name in ("base", "base_origin", "description")}
    for command in ("audit", "window", "baseline", "finetune", "evaluate", "report"):
        for file in closure(f"sigma/commands/{command}.py"):
            used = {called.rpartition(".")[2] for called, _ in calls(file)} & asking
            assert not used or file in own, f"{command}: {file} calls {used}"


def test_every_package_of_the_lock_has_its_digests():
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    assert len(packages) > 100
    for package in packages:
        source = package["source"]
        if source == {"editable": "."}:
            continue
        assert set(source) == {"registry"}, f"{package['name']}: {source}"
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        assert files, package["name"]
        for file in files:
            assert file["hash"].startswith("sha256:") and len(file["hash"]) == 71, f"{package['name']}: {file['url']}"
            assert file["url"].startswith("https://"), file["url"]


def test_the_installation_takes_the_lock_as_it_is():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert makefile.count("uv sync") == makefile.count("uv sync --frozen") > 0
    assert "--no-verify-hashes" not in makefile


def test_no_secret_is_a_parameter_or_part_of_a_stage():
    files = [ROOT / "params.yaml", *ROOT.glob("**/dvc.yaml"), *(ROOT / "sigma/profiles").glob("*.yaml")]
    for file in files:
        text = file.read_text(encoding="utf-8").lower()
        assert "hf_token" not in text and "sigma_env" not in text, file


def test_the_policy_names_what_is_trusted():
    text = (ROOT / ".github/SECURITY.md").read_text(encoding="utf-8")
    for file in ASKS:
        command = ASKS[file].partition(";")[0]
        assert command in text, command
    for word in ("weights_only", "safetensors", "HF_TOKEN", "sigma_env", "uv.lock", "symbolic link"):
        assert word in text, word


def test_sigma_env_is_ignored_by_git():
    assert "/sigma_env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
