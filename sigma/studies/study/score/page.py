"""``sigma study page``: every task's scores as one metrics file and one page."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from sigma.studies.study.cells.arm_folder import DECODINGS, GATED, SUBJECT, variant_names
from sigma.studies.study.cells.parameters import StudyParameters, read_study

# The settings that the verdict is about; the others are told beside it.
CLAIMED = ("plain", "twice_as_often")
TITLES = {
    "expert": "scripted expert",
    "base": "frozen π0.5",
    "frozen_base": "frozen π0.5",
    "base_mean_of_samples": "π0.5, mean of samples",
    "sigma": "Sigma",
    "plain_lora": "plain LoRA",
    "told_motion": "told the motion alone",
    "full_finetune": "full fine-tuning",
    "tau_constant": "τ a learned constant",
    "with_film": "with FiLM",
    "with_traf": "with TRAF",
    "without_tsac": "without TSAC",
    "without_vector": "without the step's residual",
    "without_chunk": "without the chunk's residual",
    "without_trajectory": "without the trajectory's residual",
    "with_condition": "with a residual of the condition",
    "memory_cleared": "memory cleared (trained so)",
}
_VARIANTS = {
    "_full_scale": ", scale 1",
    "_memory_reset": ", scale 1, memory cleared",
    "_zero_noise": "",
    "_gated": ", with the gate",
    "_half": ", half of its update",
    "_mean": ", mean of samples",
    "_sample": ", one sample",
}


def title(row: str) -> str:
    """A row's name in words."""
    for ending, words in _VARIANTS.items():
        if row.endswith(ending):
            return title(row.removesuffix(ending)) + words
    return TITLES.get(row, row.replace("_", " "))


def verdict(scores: Mapping[str, Any], study: StudyParameters) -> list[dict[str, Any]]:
    """For each task what Sigma beats, what beats it, and what is not shown.

    One Holm adjustment covers all comparisons of success with a compared arm in :data:`CLAIMED`: whatever its decoding,
    with the gate and without.
    """
    from sigma.evaluation.crossed import holm

    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for task in study.compared.tasks:
        for arm in study.compared.arms:
            names = variant_names(arm, study.arms[arm].kind)
            rows = [row for row, variant in names.items() if variant in ("", GATED, *DECODINGS)]
            for setting, row in product(CLAIMED, rows):
                entry = scores[task]["closed_loop"].get(setting, {}).get(row, {})
                if "sigma_minus" in entry:
                    found[task, row, setting] = entry["sigma_minus"]
    adjusted = holm({key: entry["p"] for key, entry in found.items()})
    result = []
    for (task, row, setting), entry in found.items():
        p = adjusted[task, row, setting]
        outcome = "not shown" if p >= 0.05 else "better" if entry["difference"] > 0 else "worse"
        line = {"task": task, "arm": row, "setting": setting, "outcome": outcome, "p_holm": p}
        result.append(line | {key: entry[key] for key in ("difference", "lo", "hi")})
    return result


def metrics(scores: Mapping[str, Any], swapped: Mapping[str, Any], study: StudyParameters) -> dict[str, Any]:
    """``metrics/study.json``: task -> setting -> row -> success, and for the plain setting the test errors too; the
    share of answers that follow a ``swapped`` history, and what an arm costs."""
    result: dict[str, Any] = {}
    for task, score in scores.items():
        settings = {setting: dict(rows) for setting, rows in score["closed_loop"].items()}
        for row, errors in score["offline"]["test"].items():
            name = "base" if row == "frozen_base" else row
            means = {metric: entry["mean"] for metric, entry in errors.items()}
            settings["plain"][name] = settings["plain"].get(name, {}) | means
        result[task] = settings | {"arms": score["arms"]}
        result[task] |= {"retention": score["retention"]} if "retention" in score else {}
        result[task] |= {"swapped_history": swapped[task]} if task in swapped else {}
    return result | {"verdict": verdict(scores, study)}


def run(*, params: Path, scores: Path, swapped: Path, output: Path, page: Path) -> str:
    """Join the tasks' scores; writes the metrics file ``output`` and the folder ``page``; returns one line."""
    study = read_study(params)

    from sigma.report.html import render
    from sigma.shared.errors import SigmaError
    from sigma.shared.files import atomic_directory, read_json, write_json
    from sigma.studies.study.score.figures import forest

    tasks = list(dict.fromkeys(task for task, _ in study.cells()))
    for task in tasks:
        if not (scores / f"{task}.json").is_file():
            raise SigmaError(f"{scores / task}.json: not found; run `dvc repro stages/study/dvc.yaml:score@{task}`")
    read = {task: read_json(scores / f"{task}.json") for task in tasks}
    if not swapped.is_dir():
        raise SigmaError(f"{swapped}: not found; run `dvc repro stages/study/dvc.yaml:swap`")
    exchanged = {task: read_json(swapped / f"{task}.json") for task in tasks if (swapped / f"{task}.json").is_file()}
    result = metrics(read, exchanged, study)
    with atomic_directory(page) as folder:
        pictures = {task: forest(score, title) for task, score in read.items()}
        values = {
            "scores": read,
            "swapped": exchanged,
            "verdict": result["verdict"],
            "pictures": pictures,
            "title": title,
            "subject": SUBJECT,
            "seeds": len(study.seeds),
        }
        text = render("study.html", package="sigma.studies.study.score", **values)
        (folder / "index.html").write_text(text, encoding="utf-8")
    write_json(output, result)
    counts = [line["outcome"] for line in result["verdict"]]
    return "page: Sigma against other arms: " + ", ".join(
        f"{outcome} {counts.count(outcome)}" for outcome in ("better", "worse", "not shown")
    )
