"""Look for faults in the dataset, episode by episode, and decide which episodes later stages use."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sigma.parameters import Parameters

if TYPE_CHECKING:
    from sigma.data.audit.findings import Finding

DATASET, DATASET_RECORD, BASE_RECORD = Path("data/dataset"), Path("data/dataset.json"), Path("data/base.json")
METRICS, TABLE, EPISODES = Path("metrics/audit.json"), Path("data/audit.parquet"), Path("data/episodes.json")
TRACES, FRAMES = Path("data/audit_traces.parquet"), Path("data/audit_frames.parquet")


def run(parameters: Parameters) -> str:
    """Write ``metrics/audit.json``, the tables of findings and pictures, and ``data/episodes.json``; returns the line
    to print.

    After writing them, raises :class:`SigmaError` where no episode is left, where a check failed in an episode in use
    and ``audit.on_failure`` is ``stop``, and where a check failed for the dataset as a whole and it is not ``keep``:
    leaving episodes out would not cure that.
    """
    import pyarrow

    from sigma.compute.workers import Workers
    from sigma.data.audit.findings import Finding, audit_dataset, check_listed, choose_episodes, count_findings
    from sigma.data.audit.limits import choose_limits
    from sigma.data.audit.measures import Settings
    from sigma.data.audit.pictures import choose_findings, frames_table, traces_table
    from sigma.data.dataset.dataset import open_dataset
    from sigma.data.dataset.fit import check_fit, choose_cameras
    from sigma.data.dataset.joining import further_episodes
    from sigma.shared.files import Outputs
    from sigma.shared.records import BASE, read_record
    from sigma.shared.records import DATASET as DATASET_FORM

    section, window = parameters.audit, parameters.window
    limits = choose_limits(section.limits)
    dataset, base = open_dataset(DATASET), read_record(BASE_RECORD, BASE)
    further, corrected = further_episodes(read_record(DATASET_RECORD, DATASET_FORM))
    check_fit(dataset, base, parameters, len(further))
    check_listed(dataset, section.exclude)
    used = choose_cameras(base, dataset, window.cameras).values()
    dataset = replace(dataset, cameras={key: camera for key, camera in dataset.cameras.items() if key in used})
    units = section.joint_range.lower, section.joint_range.upper
    settings = Settings(section.min_frames, *units, window.exclude_joints, section.exclude, corrected)
    findings = audit_dataset(dataset, limits, settings, Workers.of(parameters.machine), section.cameras)
    chosen = choose_episodes(dataset, findings, section.exclude, drop_failed=section.on_failure == "exclude")
    counts = count_findings(findings, chosen)
    shown = choose_findings(findings, section.shown)
    filmed = len(dataset.cameras) if section.cameras else 0
    with Outputs() as outputs:
        outputs.table(TABLE, pyarrow.Table.from_pylist(list(map(vars, findings)), schema=Finding.schema()))
        outputs.table(TRACES, traces_table(dataset, findings, shown))
        outputs.table(FRAMES, frames_table(dataset, findings, shown))
        outputs.json(EPISODES, chosen)
        outputs.json(
            METRICS, {"episodes": len(dataset.episodes), "frames": dataset.frames, "cameras": filmed, **counts}
        )
    _refuse(findings, chosen["used"], section.on_failure)
    unchecked = "" if section.cameras else "; cameras not looked at (audit.cameras)"
    return (
        f"audit: {len(dataset.episodes)} episodes, {counts['failures']} failures, {counts['warnings']} warnings, "
        f"{len(chosen['excluded'])} episodes excluded{unchecked}"
    )


def _refuse(findings: list["Finding"], used: list[int], on_failure: str) -> None:
    """Raise :class:`SigmaError`, which names the worst failure, where no episode is left or ``on_failure`` says so."""
    from sigma.data.audit.findings import worst_first
    from sigma.data.audit.measures import WHOLE_DATASET
    from sigma.shared.errors import SigmaError

    failed = worst_first(finding for finding in findings if finding.severity == "fail")
    # What is wrong with all of it comes first: it may be why episodes fail, and no exclusion cures it.
    failed.sort(key=lambda finding: finding.episode != WHOLE_DATASET)
    stopping = {"stop": [WHOLE_DATASET, *used], "exclude": [WHOLE_DATASET], "keep": []}[on_failure]
    if stopped := [finding for finding in failed if finding.episode in stopping]:
        first = stopped[0]
        about = " ".join(filter(None, [first.subject, first.detail]))
        advice = "set params.yaml: audit.on_failure to keep"
        if first.episode != WHOLE_DATASET:
            advice = "list episodes in params.yaml: audit.exclude, or set audit.on_failure to exclude or keep"
        raise SigmaError(
            f"{DATASET}: audit: {len(stopped)} failures in the episodes in use; worst: {first.check} in {first.place}: "
            f"{first.value:g} > {first.threshold:g} ({about}). See {TABLE}; {advice}"
        )
    if not used:
        worst = f"; worst: {failed[0].check} in {failed[0].place}. See {TABLE}" if failed else ""
        raise SigmaError(f"{DATASET}: every episode is excluded (params.yaml: audit.exclude, audit.on_failure){worst}")
