"""``sigma publish``: a trained Sigma as a folder for the Hub, and its upload to a repository of the user's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token

from sigma.data.dataset.origin import HUB_ID
from sigma.parameters import Parameters
from sigma.parameters.schema import read_yaml
from sigma.policy.lerobot import policy_folder
from sigma.policy.lerobot.configuration_sigma import AdapterConfig
from sigma.policy.model import heads, lora
from sigma.policy.model.model_folder import CONFIG, load_prompter, read_config
from sigma.policy.model.sizes import TelepathySizes
from sigma.policy.model.tensors import read_tensors
from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_directory, read_json, write_json
from sigma.shared.hub import hub_errors
from sigma.shared.records import read_record
from sigma.tools.card import FOLDER, model_card
from sigma.tools.export import BASE, CALIBRATION, MODEL

STATISTICS, CARD = "statistics.json", "README.md"


def run(
    *,
    repository: str,
    parameters: Parameters,
    folder: Path,
    license: str = "apache-2.0",
    private: bool = True,
    rollouts: Sequence[Path] = (),
    upload: bool = True,
) -> str:
    """Write ``folder`` from ``models/`` and ``metrics/`` and, with ``upload``, commit it to ``repository``.

    The folder is a LeRobot policy, as ``sigma export`` writes it, with statistics and a model card. Returns the line to
    print.

    Raises:
        SigmaError: a part is missing, the metrics are not this model's, or the Hub refuses or holds something else.
    """
    if not HUB_ID.fullmatch(repository):
        raise SigmaError(f"repository: {repository!r} is no Hub id; legal: owner/name")
    if upload and not get_token():
        raise SigmaError("publish: no Hub token; set HF_TOKEN (environment or sigma_env) to one that may write")
    prepare(repository, parameters, folder, license=license, rollouts=rollouts)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    line = f"publish: {folder} written, {size / 2**20:.1f} MiB"
    if not upload:
        return f"{line}; nothing was uploaded"
    return f"{line}; uploaded to {repository} at commit {send(repository, folder, private=private)}"


def prepare(repository: str, parameters: Parameters, folder: Path, *, license: str, rollouts: Sequence[Path]) -> None:
    """Write the folder for the Hub, whole or not at all."""
    earlier = all((folder / part).exists() for part in (CARD, STATISTICS, policy_folder.BASE, policy_folder.MODEL))
    if folder.exists() and not earlier and any(folder.iterdir()):
        raise SigmaError(f"{folder}: holds something else; name a folder that is empty, new or of an earlier publish")
    config = read_config(MODEL)
    sizes = TelepathySizes.from_dict(config["sizes"], str(MODEL / CONFIG))
    trained = heads.TelepathyHeads(sizes, config["token_rms"])
    heads.load_heads(trained, heads.heads_file(MODEL))
    _, base = policy_folder.check_parts(MODEL, CALIBRATION, BASE)
    digest = str(heads.describe_heads(trained)["digest"])
    provenance = _provenance(digest)
    _check_adapter_settings(parameters)
    load_prompter(MODEL, config)
    adapter_config, tensors = read_json(MODEL / "adapter_config.json"), read_tensors(MODEL / lora.WEIGHTS)
    published = config | {kind: _without_path(config[kind]) for kind in ("base", "dataset")}
    base = _without_path(base)
    policy = policy_folder.policy_config(
        published,
        base,
        adapter=AdapterConfig(**parameters.adapter.model_dump()),
        limits=policy_folder.training_limits(config),
        license=license,
    )
    numbers = {"lora": tensors.values(), "heads": trained.parameters()}
    card = model_card(
        repository,
        config=published,
        lora=adapter_config,
        counts={part: sum(tensor.numel() for tensor in held) for part, held in numbers.items()},
        heads_digest=digest,
        packages=provenance["packages"],
        license=license,
        rollouts=rollouts,
    )
    with atomic_directory(folder) as temporary:
        policy_folder.write_parts(temporary, model=MODEL, calibration=CALIBRATION, base=BASE, config=policy)
        (temporary / policy_folder.MODEL / heads.SOURCE_FILE).unlink(missing_ok=True)  # a pickle
        write_json(temporary / policy_folder.MODEL / CONFIG, published)
        write_json(temporary / policy_folder.BASE, base)
        write_json(temporary / STATISTICS, {"joint_names": config["joint_names"], **config["normalisation"]})
        (temporary / CARD).write_text(card, encoding="utf-8")


def _provenance(digest: str) -> dict[str, Any]:
    """``metrics/provenance.json``; raises :class:`SigmaError` where the metrics are not those of the heads with this
    digest."""
    file, check_file = FOLDER / "provenance.json", FOLDER / "check_a.json"
    record = read_record(file, {"heads": {"digest": str}, "packages": dict})
    check = read_record(check_file, {"digest": {"sigma": str}})
    for path, measured in ((file, record["heads"]["digest"]), (check_file, check["digest"]["sigma"])):
        if measured != digest:
            raise SigmaError(f"{path}: made with heads {measured[:12]}, {MODEL} holds {digest[:12]}; run `dvc repro`")
    return record


def _check_adapter_settings(parameters: Parameters) -> None:
    """Raise :class:`SigmaError` where the last report, by DVC's record of it, used another adapter than these
    parameters: the card's figures would not be those of the published policy."""
    if not Path("dvc.lock").is_file():
        return
    recorded = read_yaml(Path("dvc.lock")).get("stages", {}).get("report", {}).get("params", {}).get("params.yaml", {})
    if "adapter" in recorded and recorded["adapter"] != parameters.adapter.model_dump():
        raise SigmaError("params.yaml: adapter: the metrics were made with other values; run `dvc repro`")


def _without_path(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a base or a dataset, with the name of a local folder in place of its path."""
    local = record["revision"] is None and record["source"] != "embedded"
    return {**record, "source": Path(record["source"]).name} if local else dict(record)


def send(repository: str, folder: Path, *, private: bool) -> str:
    """Commit ``folder`` to the repository, which is made where it is missing; returns the commit.

    Raises :class:`SigmaError` where the Hub refuses, or where the commit lacks a file or holds another content.
    """
    api = HfApi()
    with hub_errors(repository, repository, "model"):
        api.create_repo(repository, private=private, exist_ok=True)
        message = "Sigma: adapter, heads and card"
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message).oid
        check = api.verify_repo_checksums(repository, revision=commit, local_dir=folder)
    place = f"{repository}@{commit}"
    if check.extra_paths:
        raise SigmaError(f"{place}: {check.extra_paths[0]} is not there; publish again")
    if check.mismatches:
        raise SigmaError(f"{place}: {check.mismatches[0]['path']} has another content than the folder's; publish again")
    return commit
