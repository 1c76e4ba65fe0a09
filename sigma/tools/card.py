"""The model card of a published Sigma: what it is, what it stands on, what was measured, and what it must not do."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma.evaluation.references import TITLES
from sigma.evaluation.scores import METRICS
from sigma.report.html import render
from sigma.shared.files import read_json
from sigma.shared.hub import PAGES, Kind
from sigma.tools.figures import signed, success

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

FOLDER = Path("metrics")
TAGS = ["robotics", "lerobot", "pi05", "lora", "sigma", "vision-language-action"]
ARMS = {
    "expert": "expert",
    "base": "frozen π0.5",
    "sigma": "Sigma",
    "sigma_full_scale": "Sigma at scale 1",
    "sigma_memory_cleared": "Sigma, memory cleared",
}


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


def _points(entry: Mapping[str, float], *keys: str) -> str:
    """A difference and its bounds, at these keys, in percentage points."""
    return "{} ({} to {})".format(*(signed(100 * entry[key]) for key in keys))


def _closed_loop() -> dict[str, Any]:
    """Success by task and arm from ``metrics/rollout_sigma.json``, the target and its harder settings first."""
    results = read_json(FOLDER / "rollout_sigma.json")
    kept = results.pop("retention")["arms"]
    # Only the target is played in harder settings, whose results are named TASK/SETTING.
    target = min(name.split("/")[0] for name in results if "/" in name)
    names = sorted(results, key=lambda name: (not name.startswith(target), name))
    tasks = {_code(name): results[name]["arms"] for name in names} | {"mean of the base's own tasks": kept}
    gain = results[target]["paired"]["base"]
    return {
        "target": target,
        "titles": {arm: words for arm, words in ARMS.items() if arm in results[target]["arms"]},
        "tasks": tasks,
        "on_target": results[target]["arms"],
        "gain": _points(gain, "difference", "low", "high"),
        "p": gain["p"],
        "kept": _points(kept["sigma"], "difference", "difference_lo", "difference_hi"),
    }


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
    with_closed_loop: bool,
    **values: Any,
) -> str:
    """The card's Markdown with its front matter; its figures are those in ``metrics/``.

    Args:
        repository: where it is published, owner/name.
        config: the model's ``config.json``, its sources free of local paths.
        counts: parameters of ``lora`` and ``heads``.
        license: an identifier of the Hub, such as ``apache-2.0``.
        with_closed_loop: whether ``metrics/rollout_sigma.json`` belongs to this model.
        values: what else the template shows: ``lora`` (``adapter_config.json``), ``heads_digest`` and ``packages``.
    """
    from huggingface_hub import ModelCard

    name, base = repository.split("/")[-1], config["base"]
    check_a, check_b = (read_json(FOLDER / f"check_{check}.json") for check in "ab")
    closed_loop = _closed_loop() if with_closed_loop else None
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
        closed_loop=closed_loop,
        joint_names=", ".join(map(_code, config["joint_names"])),
        cameras=", ".join(map(_code, config["cameras"])),
        error=_error,
        success=success,
        **values,
    )
    measured = {metric: check_b["test"][metric]["sigma"] for metric in METRICS}
    if closed_loop:
        measured[f"success on {closed_loop['target']}"] = closed_loop["on_target"]["sigma"]["success"]
    metadata = _metadata(name, config, license, measured)
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))
