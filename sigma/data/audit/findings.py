"""Looking for faults in a dataset: every check over its tables and its videos.

A check measures; limits decide. Each check is one small function of the modules ``*_checks`` that yields what it
measured in an episode (or in the whole dataset). A value above the check's ``fail`` limit is a failure, one above
``warn`` a warning, anything else no finding. Tables are read and judged first, then each video is decoded once.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sigma.compute.workers import Workers
from sigma.data.audit.checks import episode_tables as table_checks
from sigma.data.audit.checks.cameras import CAMERA_CHECKS
from sigma.data.audit.checks.films import ACROSS_CHECKS
from sigma.data.audit.checks.joints import JOINT_CHECKS
from sigma.data.audit.measures import WHOLE_DATASET, AuditedEpisode, FilmedEpisode, Measure, Settings, Summary
from sigma.data.audit.rows import Tables, read_tables
from sigma.data.audit.thumbnails import trace_camera
from sigma.data.audit.whole_dataset import summarise
from sigma.data.dataset.dataset import STATE, Dataset, Episode
from sigma.shared.errors import SigmaError

ROW_CHECKS = (*table_checks.ROW_CHECKS, *JOINT_CHECKS)
TABLE_CHECKS = (*table_checks.DATASET_CHECKS, *table_checks.STRUCTURE_CHECKS, *ROW_CHECKS)
VIDEO_CHECKS = (*CAMERA_CHECKS, *ACROSS_CHECKS)
CHECKS = {check.__name__: check for check in (*TABLE_CHECKS, *VIDEO_CHECKS)}


@dataclass(frozen=True)
class Limit:
    """Above ``fail`` a measure is a failure, above ``warn`` a warning; none switches that level off."""

    warn: float | None
    fail: float | None

    def judge(self, value: float) -> tuple[str, float] | None:
        """Severity and the threshold that was passed, or none. A value that is no number passes every threshold."""
        for severity, threshold in (("fail", self.fail), ("warn", self.warn)):
            if threshold is not None and not value <= threshold:
                return severity, threshold
        return None


@dataclass(frozen=True)
class Finding:
    """One row of ``audit.parquet``; ``subject`` is the joint or the camera, empty where it is the whole episode."""

    episode: int
    check: str
    severity: str
    value: float
    threshold: float
    first_frame: int
    last_frame: int
    subject: str
    detail: str

    @property
    def margin(self) -> float:
        """How many times over the threshold the value is; infinite where nothing at all was allowed."""
        return self.value / self.threshold if self.threshold and math.isfinite(self.value) else math.inf

    @staticmethod
    def schema() -> pa.Schema:
        """Columns of the table, so that one without rows has them too."""
        whole, words = pa.int64(), pa.string()
        types = (whole, words, words, pa.float64(), pa.float64(), whole, whole, words, words)
        return pa.schema(list(zip(Finding.__dataclass_fields__, types, strict=True)))


def check_names() -> list[str]:
    """Every check, in the order in which findings are listed."""
    return list(CHECKS)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Failures before warnings, then by margin; of equal ones the check that is listed first, then by value."""
    place = {name: index for index, name in enumerate(CHECKS)}

    def rank(one: Finding) -> tuple:
        value = one.value if math.isfinite(one.value) else math.inf
        return one.severity != "fail", -one.margin, place[one.check], -value, one.episode

    return sorted(findings, key=rank)


Limits = Mapping[str, Limit]


def _judged(name: str, episode: int, limits: Limits, measures: Iterable[Measure]) -> Iterator[Finding]:
    for measure in measures:
        verdict = limits[name].judge(measure.value)
        if verdict is not None:
            frames = (measure.first_frame, measure.last_frame)
            yield Finding(
                episode, name, verdict[0], float(measure.value), verdict[1], *frames, measure.subject, measure.detail
            )


def audit_tables(
    dataset: Dataset, tables: Tables, summary: Summary, limits: Limits, settings: Settings
) -> list[Finding]:
    """What is wrong with metadata and tables; rows that cannot be read are not judged beyond that."""
    findings = []
    for check in table_checks.DATASET_CHECKS:
        findings += _judged(check.__name__, WHOLE_DATASET, limits, check(summary))
    with np.errstate(all="ignore"):
        for episode in dataset.episodes:
            rows, declared = tables.rows[episode.index], tables.declared[episode.index]
            audited = AuditedEpisode(episode, rows, declared, dataset, summary, settings)
            checks = (*table_checks.STRUCTURE_CHECKS, *(ROW_CHECKS if rows.readable else ()))
            for check in checks:
                findings += _judged(check.__name__, episode.index, limits, check(audited))
    return findings


def audit_cameras(
    dataset: Dataset, episode: Episode, position: np.ndarray, limits: Limits
) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """What is wrong with the cameras of one episode, each decoded once, and their signatures where there are frames.

    ``position`` float [n, D] is how far each joint is along its range.
    """
    traces = {camera: trace_camera(dataset, episode, camera) for camera in dataset.cameras}
    filmed = FilmedEpisode(episode, dataset.fps, traces, position)
    findings = []
    with np.errstate(all="ignore"):
        for check in CAMERA_CHECKS:
            findings += _judged(check.__name__, episode.index, limits, check(filmed))
    return findings, {camera: trace.signature(dataset.fps) for camera, trace in traces.items() if len(trace.steps)}


def audit_dataset(
    dataset: Dataset, limits: Limits, settings: Settings, workers: Workers, decode: bool = True
) -> list[Finding]:
    """All findings, the dataset's own first, then by episode and check; the order does not depend on ``workers``.

    Without ``decode`` no video is opened, and the checks of the cameras find nothing.
    """
    tables = read_tables(dataset)
    summary = summarise(dataset, tables)
    findings = audit_tables(dataset, tables, summary, limits, settings)
    if decode:
        slim, signatures = dataset.for_workers(), {}
        jobs = [(slim, one, tables.rows[one.index].state / summary.span[STATE], limits) for one in dataset.episodes]
        made = workers.run(audit_cameras, jobs, "audit")
        for episode, (found, signature) in zip(dataset.episodes, made, strict=True):
            findings += found
            signatures[episode.index] = signature
        for check in ACROSS_CHECKS:
            for episode, measure in check(signatures):
                findings += _judged(check.__name__, episode, limits, [measure])
    place = {name: index for index, name in enumerate(CHECKS)}
    return sorted(findings, key=lambda one: (one.episode, place[one.check]))


def check_listed(dataset: Dataset, listed: Iterable[int]) -> None:
    """Raise :class:`SigmaError` for an episode of ``audit.exclude`` that is not there."""
    for episode in listed:
        if not 0 <= episode < len(dataset.episodes):
            raise SigmaError(
                f"params.yaml: audit.exclude: no episode {episode}; legal: 0 to {len(dataset.episodes) - 1}"
            )


def choose_episodes(
    dataset: Dataset, findings: Iterable[Finding], listed: Iterable[int], drop_failed: bool
) -> dict[str, Any]:
    """Episodes that later stages use, and the excluded ones with the reason: ``{"used": […], "excluded": {…}}``."""
    excluded = dict.fromkeys(listed, "listed in audit.exclude")
    for finding in findings:
        if drop_failed and finding.severity == "fail" and finding.episode != WHOLE_DATASET:
            excluded.setdefault(finding.episode, f"failed {finding.check}")
    used = [episode.index for episode in dataset.episodes if episode.index not in excluded]
    return {"used": used, "excluded": {str(episode): excluded[episode] for episode in sorted(excluded)}}


def count_findings(findings: Iterable[Finding], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Failures and warnings in the dataset and in the episodes in use, and findings by check where there are any."""
    relevant = [finding for finding in findings if finding.episode in (WHOLE_DATASET, *chosen["used"])]
    by_check = {name: sum(finding.check == name for finding in relevant) for name in check_names()}
    return {
        "excluded": len(chosen["excluded"]),
        "used": len(chosen["used"]),
        "failures": sum(finding.severity == "fail" for finding in relevant),
        "warnings": sum(finding.severity == "warn" for finding in relevant),
        "checks": {name: count for name, count in by_check.items() if count},
    }
