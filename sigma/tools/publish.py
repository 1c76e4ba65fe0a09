"""``sigma publish``: a trained Sigma as a folder for the Hub, and its upload to a repository of the user's."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.parameters import Parameters
from sigma.shared.errors import SigmaError

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

MODEL, CALIBRATION, METRICS = Path("models/sigma"), Path("models/adapter_calibration.json"), Path("metrics")
BASE = Path("data/base.json")
ADVICE = "publish with --no-clamp, and give limits where the policy is run"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
STATISTICS, CARD = "statistics.json", "README.md"


def run(
    *,
    repository: str,
    parameters: Parameters,
    folder: Path,
    license: str = "apache-2.0",
    private: bool = True,
    closed_loop: bool = False,
    clamp: bool = True,
    upload: bool = True,
) -> str:
    """Write ``folder`` from ``models/`` and ``metrics/`` and, with ``upload``, commit it to ``repository``.

    The folder is a LeRobot policy, as ``sigma export`` writes it, with statistics and a card beside. Returns the line
    to print.

    Raises:
        SigmaError: something is missing or the metrics are not this model's (nothing is uploaded), or the Hub refuses.
    """
    if not REPOSITORY.fullmatch(repository):
        raise SigmaError(f"repository: {repository!r} is no Hub id; legal: owner/name")
    if upload:
        _require_token()
    prepare(repository, parameters, folder, license=license, closed_loop=closed_loop, clamp=clamp)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    written = f"publish: {folder} written, {size / 2**20:.1f} MiB"
    if not upload:
        return f"{written}; nothing was uploaded"
    return f"{written}; uploaded to {repository} at commit {send(repository, folder, private=private)}"


def _require_token() -> None:
    from huggingface_hub import get_token

    if not get_token():
        raise SigmaError("publish: no Hub token; set HF_TOKEN (environment or sigma_env) to one that may write")


def prepare(
    repository: str, parameters: Parameters, folder: Path, *, license: str, closed_loop: bool, clamp: bool
) -> None:
    """Write the Hub-ready folder, whole or not at all."""
    from safetensors.torch import load_file

    from sigma.policy.adapter.adapter import read_reference
    from sigma.policy.lerobot import policy_folder
    from sigma.policy.lerobot.configuration_sigma import AdapterConfig
    from sigma.policy.model import heads, lora
    from sigma.policy.model.model_folder import CONFIG, load_prompter
    from sigma.policy.model.sizes import TelepathySizes
    from sigma.shared.files import atomic_directory, read_json, write_json
    from sigma.tools.card import model_card

    if folder.exists() and not (folder / CARD).is_file() and any(folder.iterdir()):
        raise SigmaError(f"{folder}: holds something else; name a folder that is empty, new or of an earlier publish")
    config, reference = policy_folder.check_parts(MODEL, CALIBRATION, BASE)
    trained = heads.new_heads(TelepathySizes.from_dict(config["sizes"], str(MODEL / CONFIG)), config["token_rms"])
    heads.load_heads(trained, heads.heads_file(MODEL))
    described = heads.describe_heads(trained)
    provenance = _provenance(str(described["digest"]))
    _check_adapter_settings(parameters)
    read_reference(CALIBRATION)  # refuses another format, and arrays that are not the quantiles' own
    load_prompter(MODEL, config)
    for name in ("adapter_config.json", lora.WEIGHTS, heads.FILE):
        if not (MODEL / name).is_file():
            raise SigmaError(f"{MODEL / name}: not found; run `dvc repro`")
    published = config | {kind: _without_path(config[kind]) for kind in ("base", "dataset")}
    reference = _without_path(reference)
    limits = policy_folder.default_limits(config, ADVICE) if clamp else {}
    adapter = AdapterConfig(**parameters.adapter.model_dump())
    made = policy_folder.policy_config(published, reference, adapter=adapter, limits=limits, license=license)
    with atomic_directory(folder) as temporary:
        policy_folder.write_parts(temporary, model=MODEL, calibration=CALIBRATION, base=BASE, config=made)
        (temporary / policy_folder.MODEL / heads.SOURCE_FILE).unlink(missing_ok=True)
        write_json(temporary / policy_folder.MODEL / CONFIG, published)
        write_json(temporary / policy_folder.BASE, reference)
        write_json(temporary / STATISTICS, {"joint_names": config["joint_names"], **config["normalisation"]})
        tensors = load_file(temporary / policy_folder.MODEL / lora.WEIGHTS)
        card = model_card(
            repository,
            Path(),
            config=published,
            lora=read_json(temporary / policy_folder.MODEL / "adapter_config.json"),
            counts={
                "lora": sum(tensor.numel() for tensor in tensors.values()),
                "heads": heads.parameter_count(trained),
            },
            heads_digest=str(described["digest"]),
            packages=provenance["packages"],
            license=license,
            with_closed_loop=closed_loop,
        )
        (temporary / CARD).write_text(card, encoding="utf-8")


def _provenance(digest: str) -> dict[str, Any]:
    """The record of the run, once it is clear that the metrics are those of the heads with this digest."""
    from sigma.shared.records import read_record

    record = read_record(METRICS / "provenance.json", {"heads": {"digest": str}, "packages": dict})
    check = read_record(METRICS / "check_a.json", {"digest": {"sigma": str}})
    for name, found in {"provenance": record["heads"]["digest"], "check_a": check["digest"]["sigma"]}.items():
        if found != digest:
            raise SigmaError(
                f"{METRICS / f'{name}.json'}: it speaks of heads {found[:12]}, {MODEL} holds {digest[:12]}; "
                "run `dvc repro`"
            )
    return record


def _check_adapter_settings(parameters: Parameters) -> None:
    """The figures come from the adapter's settings of the last report; where DVC recorded others, it has to run."""
    from sigma.parameters.schema import read_yaml

    if not Path("dvc.lock").is_file():
        return
    recorded = read_yaml(Path("dvc.lock")).get("stages", {}).get("report", {}).get("params", {}).get("params.yaml", {})
    if "adapter" in recorded and recorded["adapter"] != parameters.adapter.model_dump():
        raise SigmaError("params.yaml: adapter: the metrics were made with other values; run `dvc repro`")


def _without_path(record: Mapping[str, Any]) -> dict[str, Any]:
    """A base's or dataset's record, where a local folder is known by its name and digest only."""
    local = record["revision"] is None and record["source"] != "embedded"
    return {**record, "source": Path(record["source"]).name} if local else dict(record)


def send(repository: str, folder: Path, *, private: bool) -> str:
    """Commit ``folder`` to the repository, made where it is missing; returns the commit after comparing its files."""
    from huggingface_hub import HfApi, RepoFile

    from sigma.shared.hub import hub_errors

    api = HfApi()
    with hub_errors(repository, repository, "model"):
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Sigma: adapter, heads and card"
        )
        commit = done.oid
        listing = {
            entry.path: entry
            for entry in api.list_repo_tree(repository, recursive=True, revision=commit)
            if isinstance(entry, RepoFile)
        }
    for file in sorted(item for item in folder.rglob("*") if item.is_file()):
        _compare(file, file.relative_to(folder).as_posix(), listing, f"{repository}@{commit}")
    return commit


def _compare(file: Path, name: str, listing: "Mapping[str, RepoFile]", place: str) -> None:
    from sigma.shared.hub import content_digest, named_digest

    if name not in listing:
        raise SigmaError(f"{place}: {name} is not there; publish again")
    if content_digest(file, listing[name]) != named_digest(listing[name]):
        raise SigmaError(f"{place}: {name} has another content than the folder's; publish again")
