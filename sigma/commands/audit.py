"""Look for faults in the dataset, episode by episode, and decide which episodes later stages use."""

from pathlib import Path
from typing import TYPE_CHECKING

from sigma.parameters import Parameters
from sigma.parameters.audit import AuditParameters

if TYPE_CHECKING:
    from sigma.data.audit.findings import Finding

DATASET = Path("data/dataset")
METRICS, TABLE, EPISODES = Path("metrics/audit.json"), Path("data/audit.parquet"), Path("data/episodes.json")
TRACES, FRAMES = Path("data/audit_traces.parquet"), Path("data/audit_frames.parquet")


def run(parameters: Parameters) -> str:
    """Write ``metrics/audit.json``, the tables of findings and pictures, and ``data/episodes.json``; returns the line
    to print.

    Raises :class:`SigmaError` after writing them where a check failed in an episode in use and ``audit.on_failure`` is
    ``stop``, or where it failed for the dataset as a whole and is not ``keep``: leaving episodes out would not cure it;
    and where no episode is left.
    """
    import pyarrow

    from sigma.compute.workers import Workers
    from sigma.data.audit.findings import Finding, audit_dataset, check_listed, choose_episodes, count_findings
    from sigma.data.audit.limits import choose_limits
    from sigma.data.audit.measures import Settings
    from sigma.data.audit.pictures import choose_findings, frames_table, traces_table
    from sigma.data.dataset.dataset import open_dataset
    from sigma.shared.files import Outputs

    section = parameters.audit
    limits = choose_limits(section.limits)
    dataset = open_dataset(DATASET)
    check_listed(dataset, section.exclude)
    settings = Settings(section.min_frames, section.joint_range.lower, section.joint_range.upper)
    findings = audit_dataset(dataset, limits, settings, Workers.of(parameters.machine), section.cameras)
    chosen = choose_episodes(dataset, findings, section.exclude, drop_failed=section.on_failure == "exclude")
    counts = count_findings(findings, chosen)
    columns = {name: [getattr(finding, name) for finding in findings] for name in Finding.__dataclass_fields__}
    shown = choose_findings(findings, section.shown)
    filmed = len(dataset.cameras) if section.cameras else 0
    with Outputs() as outputs:
        outputs.table(TABLE, pyarrow.table(columns, schema=Finding.schema()))
        outputs.table(TRACES, traces_table(dataset, findings, shown))
        outputs.table(FRAMES, frames_table(dataset, findings, shown))
        outputs.json(EPISODES, chosen)
        outputs.json(
            METRICS, {"episodes": len(dataset.episodes), "frames": dataset.frames, "cameras": filmed, **counts}
        )
    if not chosen["used"]:
        _refuse_all(findings)
    _refuse(
        section,
        [finding for finding in findings if finding.severity == "fail" and finding.episode in (-1, *chosen["used"])],
    )
    unchecked = "" if section.cameras else "; cameras not looked at (audit.cameras)"
    return (
        f"audit: {len(dataset.episodes)} episodes, {counts['failures']} failures, {counts['warnings']} warnings, "
        f"{len(chosen['excluded'])} episodes excluded{unchecked}"
    )


def _refuse_all(findings: list["Finding"]) -> None:
    """Raise :class:`SigmaError` because no episode is left; it names the worst finding."""
    from sigma.data.audit.findings import worst_first
    from sigma.shared.errors import SigmaError

    failed = worst_first(finding for finding in findings if finding.severity == "fail")
    worst = f"; worst: {failed[0].check} in {_place(failed[0])}. See {TABLE}" if failed else ""
    raise SigmaError(f"{DATASET}: every episode is excluded (params.yaml: audit.exclude, audit.on_failure){worst}")


def _place(finding: "Finding") -> str:
    return "dataset" if finding.episode < 0 else f"episode {finding.episode}"


def _refuse(section: AuditParameters, failed: list["Finding"]) -> None:
    """Raise :class:`SigmaError` for the worst failure, unless ``audit.on_failure`` lets all of them pass."""
    from sigma.data.audit.findings import worst_first
    from sigma.shared.errors import SigmaError

    if section.on_failure == "keep":
        return
    if section.on_failure == "exclude":
        failed = [finding for finding in failed if finding.episode < 0]
    if failed:
        worst = worst_first(failed)[0]
        about = " ".join(filter(None, [worst.subject, worst.detail]))
        leave = "exclude or " if section.on_failure == "stop" else ""
        raise SigmaError(
            f"{DATASET}: audit: {len(failed)} failures in the episodes in use; worst: {worst.check} in "
            f"{_place(worst)}: {worst.value:g} > {worst.threshold:g} ({about}). See {TABLE}; list episodes in "
            f"params.yaml: audit.exclude, or set audit.on_failure to {leave}keep"
        )
