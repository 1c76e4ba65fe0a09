"""``sigma evidence``: the page that says against which confirmatory arms Sigma is better. Needs no model."""

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from sigma.parameters import read_sections
from sigma.parameters.schema import Section

METRICS = Path("metrics")
# Where the pictures lie that other commands draw; each is shown where it exists.
PICTURES = {
    "curves": Path("stages/ablation/summary/curves.svg"),
    "probes": Path("stages/evidence/out/diagnostics/probes.svg"),
    "episodes": Path("stages/evidence/out/diagnostics/episodes.svg"),
    "reliability": Path("stages/evidence/out/diagnostics/reliability.svg"),
}
SAME = 1e-9
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


class EvidenceParameters(Section):
    target: str = Field(min_length=1)
    kept_within: float = Field(ge=0, le=100)
    contact_sheets: str


class EvidenceFile(Section):
    evidence: EvidenceParameters


def _sheets(folder: Path) -> list[tuple[str, str]]:
    """Pictures of rollouts below ``folder``, each by the folder it lies in; none where there is no such folder."""
    from sigma.report.html import data_uri
    from sigma.studies.ablation.arm_results import place, title

    files = [file for file in folder.rglob("*") if file.suffix.lower() in MEDIA]
    files.sort(key=lambda file: (place(file.parent.name), file.name))
    return [(title(file.parent.name), data_uri(MEDIA[file.suffix.lower()], file.read_bytes())) for file in files]


def _refuse_other_windows(ablation: dict[str, Any], check_b: dict[str, Any]) -> None:
    from sigma.shared.errors import SigmaError

    arms, report = ablation["test"]["rows"]["frozen_base"]["mse_plan"]["mean"], check_b["test"]["mse_plan"]["baseline"]
    if abs(arms - report) > SAME * max(arms, report):
        raise SigmaError(
            f"metrics/ablation.json: the frozen base's mse_plan is {arms:.6g}, metrics/check_b.json has {report:.6g}: "
            "they are of different windows; run `dvc repro` and `dvc repro stages/ablation/dvc.yaml`"
        )


def run(*, params: Path, output: Path) -> str:
    """Write the page; returns one line that counts its outcomes.

    Raises :class:`SigmaError` where ``metrics/ablation.json`` or a check is missing, or where they are not
    of the same windows. The closed loop, the diagnostics and pictures may be missing: the page says so.
    """
    section = read_sections(EvidenceFile, params, others=True).evidence

    from sigma.report.html import picture
    from sigma.shared.files import atomic_file, read_json
    from sigma.studies.evidence.evidence_page import build_evidence
    from sigma.studies.evidence.outcomes import outcomes
    from sigma.studies.rollout.rollout_results import read_closed_loop

    metrics = {name: read_json(METRICS / f"{name}.json") for name in ("ablation", "check_a", "check_b")}
    _refuse_other_windows(metrics["ablation"], metrics["check_b"])
    closed_loop = read_closed_loop(METRICS / "rollout.json")
    diagnostics = METRICS / "diagnostics.json"
    metrics["diagnostics"] = read_json(diagnostics) if diagnostics.is_file() else None
    pictures = {name: picture(file.read_text(encoding="utf-8")) for name, file in PICTURES.items() if file.is_file()}
    table = outcomes(metrics["ablation"]["test"], closed_loop, section.target)
    sheets = _sheets(Path(section.contact_sheets))
    page = build_evidence(
        metrics,
        closed_loop,
        table,
        target=section.target,
        kept_within=section.kept_within,
        pictures=pictures,
        sheets=sheets,
    )
    with atomic_file(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    counts = Counter(row.outcome for row in table)
    return f"evidence: {len(table)} comparisons, Sigma " + ", ".join(f"{name} in {n}" for name, n in counts.items())
