"""``sigma/data/audit/README.md``: every check with its limits, and what the audit finds of each planted fault.

``python -m tests.data.audit.checks_page`` writes it anew; the tests hold the committed page to the code.
"""

from collections.abc import Mapping
from pathlib import Path

from sigma.compute.workers import Workers
from sigma.data.audit.check import Limit
from sigma.data.audit.findings import audit_dataset
from sigma.data.audit.limits import CHECKS, VIDEO_CHECKS
from sigma.data.audit.measures import Settings
from sigma.data.dataset.dataset import open_dataset
from tests.data.audit.embedded_copy import EMBEDDED
from tests.data.audit.planted import FAULTS, FILE_FAULTS
from tests.data.audit.planted_films import FILM_FAULTS
from tests.imports import ROOT

PAGE = ROOT / "sigma/data/audit/README.md"
SETTINGS = Settings(16, -100.0, 100.0)
ABOUT = (
    "A value above *fail* is a failure, one above *warn* a warning. *Embedded* is the largest value on the shipped "
    "data. A joint's range is that between its 1 % and 99 % quantiles over the dataset."
)
LIMITS = (
    "Limits stand in the code beside their check. `audit.limits` in `params.yaml` overrides them: it names checks, and "
    "of each the levels that differ, e.g. `limits: {jump: {warn: null, fail: 0.95}}`; `null` switches a level off."
)
ADDING = (
    "To add a check, write one function into a file of `sigma/data/audit/checks/`, under the decorator of its group: "
    "`@JOINTS.check(warn=…, fail=…, unit=…, reason=…)`. No other file names it. Tests ask for a fault that it finds, "
    "planted in `tests/data/audit/planted.py`, and for this page, which `python -m tests.data.audit.checks_page` "
    "writes."
)


def worst_values() -> dict[str, float]:
    """The largest value that each check measures on the embedded data; absent where it has nothing to measure."""
    report_all = dict.fromkeys(CHECKS, Limit(None, -1.0))
    worst: dict[str, float] = {}
    for finding in audit_dataset(open_dataset(EMBEDDED), report_all, SETTINGS, workers=Workers(1)):
        worst[finding.check] = max(worst.get(finding.check, 0.0), finding.value)
    return worst


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _check_rows(worst: Mapping[str, float]) -> list[str]:
    rows = []
    for name, check in CHECKS.items():
        words = " ".join(str(check.function.__doc__).split()).replace("``", "`").replace("|", "\\|")
        levels = (check.limit.warn, check.limit.fail, round(worst.get(name, 0.0), 3))
        rows.append(f"| `{name}` | {words} | {check.unit} | {' | '.join(map(_number, levels))} | {check.reason} |")
    return rows


def _fault_rows() -> list[str]:
    rows = []
    for fault in (*FAULTS, *FILE_FAULTS, *FILM_FAULTS):
        also = ", ".join(f"`{name}`" for name in fault.also) or "–"
        rows.append(f"| {fault.words} | `{fault.check}` | {fault.severity} | {also} |")
    return rows


def page(worst: Mapping[str, float]) -> str:
    """The page as Markdown; ``worst`` are the largest values on the embedded data."""
    films = len(VIDEO_CHECKS)
    return "\n".join(
        [
            "# What the audit looks for",
            "",
            f"{len(CHECKS)} checks: {len(CHECKS) - films} read the tables, {films} the videos. {ABOUT}",
            "",
            LIMITS,
            "",
            ADDING,
            "",
            "| check | what it measures and why | unit | warn | fail | embedded | why these limits |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *_check_rows(worst),
            "",
            "# What it finds",
            "",
            "Each fault is planted in a copy of the shipped data, alone in its episode. Tests plant it and hold the "
            "audit to this table.",
            "",
            "| fault | worst finding | severity | found too |",
            "| --- | --- | --- | --- |",
            *_fault_rows(),
            "",
            "What cannot be laid at one episode's door is refused in one line by the reader instead: another format "
            "version, a missing or unreadable file, a table without `episode_index`, a gap in the episodes' numbers, a "
            "camera in use whose films are missing, state and action of different length.",
            "",
        ]
    )


if __name__ == "__main__":
    Path(PAGE).write_text(page(worst_values()), encoding="utf-8")
