"""The model card of a published Sigma: what it is, what it stands on, what was measured, and what it must not do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.evaluation.references import TITLES
from sigma.evaluation.scores import METRICS
from sigma.report.html import render
from sigma.shared.files import read_json
from sigma.shared.hub import PAGES, Kind
from sigma.studies.study.score.closed_loop import join_seeds, score

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

FOLDER = Path("metrics")
TAGS = ["robotics", "lerobot", "pi05", "lora", "sigma", "vision-language-action"]


def _code(text: str) -> str:
    """A name from data as Markdown code, in which nothing is markup."""
    plain = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def _origin(kind: Kind, record: Mapping[str, Any]) -> str:
    """A base (``model``) or dataset in words: its Hub page and commit, or what a local one can be known by."""
    source, revision, digest = record["source"], record["revision"], record["digest"]
    if revision:
        return f"[{source}]({PAGES[kind]}{source}) at commit `{revision}`, digest `{digest}`"
    local = f"a local folder named {_code(source)}, not on the Hub"
    return f"{'shipped with the package' if source == 'embedded' else local}, digest `{digest}`"


def _error(value: float) -> str:
    """Four decimals with a true minus sign."""
    return f"{value:.4f}".replace("-", "−")


def _success(entry: Mapping[str, float] | None) -> str:
    """Success in percent with its interval; empty where an arm did not play."""
    return f"{100 * entry['success']:.0f} % ({100 * entry['lo']:.0f}–{100 * entry['hi']:.0f})" if entry else ""


def _closed_loop(tables: Sequence[Path]) -> dict[str, Any]:
    """Success by task, setting and arm from the tables that ``sigma rollout`` wrote; the first table's arm is first."""
    rows: dict[str, dict[str, Any]] = {}
    for (task, setting, arm), columns in join_seeds(tables).items():
        rows.setdefault(_code(f"{task}, {setting}"), {})[arm] = score(columns)
    return {"rows": rows, "arms": list(dict.fromkeys(arm for arms in rows.values() for arm in arms))}


def _metadata(name: str, config: Mapping[str, Any], license: str, measured: Mapping[str, float]) -> "ModelCardData":
    """The card's front matter; the base and the dataset are named where they are on the Hub."""
    from huggingface_hub import EvalResult, ModelCardData

    base, dataset = config["base"], config["dataset"]
    on_hub = dataset["revision"] is not None
    links: dict[str, Any] = {"datasets": [dataset["source"]]} if on_hub else {}
    if base["revision"]:
        links |= {"base_model": base["source"], "base_model_relation": "adapter"}
    results = [
        EvalResult(
            task_type="robotics",
            dataset_type=dataset["source"] if on_hub else "recorded",
            dataset_name=dataset["source"] if on_hub else "recorded by the author",
            dataset_revision=dataset["revision"],
            dataset_split="test",
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in measured.items()
    ]
    return ModelCardData(
        library_name="lerobot",
        license=license,
        pipeline_tag="robotics",
        tags=TAGS,
        model_name=name,
        eval_results=results,
        **links,
    )


def model_card(
    repository: str,
    *,
    config: Mapping[str, Any],
    counts: Mapping[str, int],
    license: str,
    rollouts: Sequence[Path],
    **values: Any,
) -> str:
    """The card's Markdown with its front matter; its figures are those in ``metrics/``.

    Args:
        repository: where it is published, owner/name.
        config: the model's ``config.json``, its sources free of local paths.
        counts: parameters of ``lora`` and ``heads``.
        license: an identifier of the Hub, such as ``apache-2.0``.
        rollouts: tables of ``sigma rollout`` with this model, and with what it is compared with.
        values: what else the template shows: ``lora`` (``adapter_config.json``), ``heads_digest`` and ``packages``.
    """
    from huggingface_hub import ModelCard

    name, base = repository.split("/")[-1], config["base"]
    check_a, check_b = (read_json(FOLDER / f"check_{check}.json") for check in "ab")
    references = ((TITLES[row], errors, "reference") for row, errors in sorted(check_b["references"].items()))
    body = render(
        "card.md",
        package="sigma.tools",
        name=name,
        repository=repository,
        verdict=read_json(FOLDER / "sigma_eval_report.json")["verdict"],
        base=_origin("model", base),
        dataset=_origin("dataset", config["dataset"]),
        base_folder=None if base["revision"] or base["source"] == "embedded" else base["source"],
        config=config,
        counts=counts,
        license=license,
        metrics=METRICS,
        rows=[(TITLES["base"], check_b["test"], "baseline"), *references],
        check_a=check_a,
        check_b=check_b,
        closed_loop=_closed_loop(rollouts) if rollouts else None,
        joint_names=", ".join(map(_code, config["joint_names"])),
        cameras=", ".join(map(_code, config["cameras"])),
        error=_error,
        success=_success,
        **values,
    )
    measured = {metric: check_b["test"][metric]["sigma"] for metric in METRICS}
    metadata = _metadata(name, config, license, measured)
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))
