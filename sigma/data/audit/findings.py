"""Looking for faults in a dataset: every check over its tables and its videos.

A check measures, limits decide: a value above the check's ``fail`` limit is a failure, one above ``warn`` a warning,
any other is no finding. Tables are read and judged first, then each video is decoded once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from sigma.compute.workers import Workers
from sigma.data.audit.check import Check
from sigma.data.audit.checks.cameras import CAMERAS
from sigma.data.audit.checks.episode_tables import ROWS
from sigma.data.audit.checks.films import FILMS
from sigma.data.audit.checks.joints import JOINTS
from sigma.data.audit.checks.metadata import DATASET, STRUCTURE
from sigma.data.audit.checks.units import UNITS
from sigma.data.audit.limits import PLACE, Limits
from sigma.data.audit.measures import WHOLE_DATASET, AuditedEpisode, FilmedEpisode, Measure, Settings, Summary
from sigma.data.audit.rows import StoredRows, Tables, read_tables
from sigma.data.audit.thumbnails import trace_camera
from sigma.data.audit.whole_dataset import find_extremes, summarise
from sigma.data.dataset.dataset import STATE, Dataset, Episode
from sigma.shared.errors import SigmaError


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
        """The value as a multiple of the threshold; infinite where the threshold is 0."""
        return self.value / self.threshold if self.threshold and math.isfinite(self.value) else math.inf

    @property
    def rank(self) -> tuple:
        """The key to sort by, the worst first: failures, then margin, then the order of the checks, then value."""
        value = self.value if math.isfinite(self.value) else math.inf
        return self.severity != "fail", -self.margin, PLACE[self.check], -value, self.episode

    @property
    def place(self) -> str:
        """What it concerns, in words: the dataset or an episode."""
        return "dataset" if self.episode == WHOLE_DATASET else f"episode {self.episode}"

    @staticmethod
    def schema() -> pa.Schema:
        """Columns of the table, so that one without rows has them too."""
        types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
        return pa.schema([(name, types[kind]) for name, kind in Finding.__annotations__.items()])


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in the order of their rank."""
    return sorted(findings, key=lambda finding: finding.rank)


def _judge(name: str, episode: int, limits: Limits, measures: Iterable[Measure]) -> Iterator[Finding]:
    """A finding for each measure that is above a limit of the check ``name``."""
    for measure in measures:
        verdict = limits[name].judge(measure.value)
        if verdict is not None:
            severity, threshold = verdict
            yield Finding(
                episode, name, severity, threshold=threshold, **vars(measure) | {"value": float(measure.value)}
            )


def _apply(checks: Iterable[Check], subject: Any, episode: int, limits: Limits) -> list[Finding]:
    """The findings of ``checks`` in ``subject``, which is what their functions read."""
    with np.errstate(all="ignore"):
        return [finding for check in checks for finding in _judge(check.name, episode, limits, check.function(subject))]


def audit_tables(
    dataset: Dataset, tables: Tables, judged: Dataset, summary: Summary, limits: Limits, settings: Settings
) -> list[Finding]:
    """What is wrong with metadata and tables; rows that cannot be read are not judged beyond that.

    ``judged`` is the dataset with the joints that ``settings`` does not exclude; ``summary`` is of these.
    """
    findings = _apply(DATASET, summary, WHOLE_DATASET, limits)
    kept = [dataset.joint_names.index(name) for name in judged.joint_names]
    sound: dict[int, StoredRows] = {}
    readable: dict[int, StoredRows] = {}
    for episode in dataset.episodes:
        rows, declared = tables.rows[episode.index], tables.declared[episode.index]
        audited = AuditedEpisode(episode, rows, declared, dataset, summary, settings)
        of_episode = _apply([*STRUCTURE, *ROWS] if rows.readable else STRUCTURE, audited, episode.index, limits)
        if rows.readable:
            audited = replace(audited, rows=rows.of_joints(kept), dataset=judged)
            of_episode += _apply(JOINTS, audited, episode.index, limits)
            if episode.index not in settings.exclude:
                readable[episode.index] = audited.rows
                if not any(finding.severity == "fail" for finding in of_episode):
                    sound[episode.index] = audited.rows
        findings += of_episode
    if extremes := find_extremes(judged, sound or readable, summary, settings):
        findings += _apply(UNITS, extremes, WHOLE_DATASET, limits)
    return findings


def audit_cameras(
    dataset: Dataset, episode: Episode, position: np.ndarray, limits: Limits
) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """What is wrong with the cameras of one episode, each decoded once, and their signatures where there are frames.

    ``position`` float [n, D] is how far each joint is along its range.
    """
    traces = {camera: trace_camera(dataset, episode, camera) for camera in dataset.cameras}
    findings = _apply(CAMERAS, FilmedEpisode(episode, dataset.fps, traces, position), episode.index, limits)
    return findings, {camera: trace.signature(dataset.fps) for camera, trace in traces.items() if len(trace.steps)}


def audit_dataset(
    dataset: Dataset, limits: Limits, settings: Settings, workers: Workers, decode: bool = True
) -> list[Finding]:
    """All findings, the dataset's own first, then by episode and check; the order does not depend on ``workers``.

    Without ``decode`` no video is opened, and the checks of the cameras find nothing.
    """
    tables = read_tables(dataset, settings.corrected)
    kept = [joint for joint, name in enumerate(dataset.joint_names) if name not in settings.exclude_joints]
    judged = replace(dataset, joint_names=tuple(dataset.joint_names[joint] for joint in kept))
    of_kept = tables.of_joints(kept)
    summary = summarise(judged, of_kept, settings.floor)
    findings = audit_tables(dataset, tables, judged, summary, limits, settings)
    if decode:
        slim, signatures = dataset.for_workers(), {}
        jobs = [
            (slim, episode, of_kept.rows[episode.index].state / summary.span[STATE], limits)
            for episode in dataset.episodes
        ]
        results = workers.run(audit_cameras, jobs, "audit")
        for episode, (of_cameras, signature) in zip(dataset.episodes, results, strict=True):
            findings += of_cameras
            signatures[episode.index] = signature
        for check in FILMS:
            for index, measure in check.function(signatures):
                findings += _judge(check.name, index, limits, [measure])
    return sorted(findings, key=lambda finding: (finding.episode, PLACE[finding.check]))


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
    return {
        "excluded": len(chosen["excluded"]),
        "used": len(chosen["used"]),
        "failures": sum(finding.severity == "fail" for finding in relevant),
        "warnings": sum(finding.severity == "warn" for finding in relevant),
        "checks": dict(Counter(finding.check for finding in relevant)),
    }
