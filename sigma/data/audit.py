"""Looking for faults in a dataset: one pass over the episodes that runs every check.

A check measures; limits decide. Each check is one small function of :mod:`sigma.data.table_checks` or
:mod:`sigma.data.camera_checks` that yields what it measured in an episode (or in the whole dataset). A value above the
check's ``fail`` limit is a failure, one above ``warn`` a warning, anything else no finding.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sigma.data import table_checks
from sigma.data.camera_checks import CAMERA_CHECKS
from sigma.data.measures import AuditedEpisode, DatasetCheck, EpisodeCheck, Measure, Summary
from sigma.data.source import ACTION, STATE, Dataset, Episode
from sigma.data.trace import trace_camera
from sigma.errors import SigmaError
from sigma.progress import track

WHOLE_DATASET = -1
DATASET_CHECKS: dict[str, DatasetCheck] = {check.__name__: check for check in table_checks.DATASET_CHECKS}
EPISODE_CHECKS: dict[str, EpisodeCheck] = {
    check.__name__: check for check in (*table_checks.TABLE_CHECKS, *CAMERA_CHECKS)
}


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
    """One row of ``audit.parquet``."""

    episode: int
    check: str
    severity: str
    value: float
    threshold: float
    first_frame: int
    last_frame: int
    detail: str

    @staticmethod
    def schema() -> pa.Schema:
        """Columns of the table, so that one without rows has them too."""
        whole, words = pa.int64(), pa.string()
        types = (whole, words, words, pa.float64(), pa.float64(), whole, whole, words)
        return pa.schema(list(zip(Finding.__dataclass_fields__, types, strict=True)))


def check_names() -> list[str]:
    """Every check, in the order in which findings are listed."""
    return [*DATASET_CHECKS, *EPISODE_CHECKS]


def summarise(dataset: Dataset) -> Summary:
    """Statistics and duplicates in one pass over the tables; non-finite rows are left to their own check."""
    low, high, total, squares, frames = {}, {}, {}, {}, {}
    seen: dict[bytes, int] = {}
    repeats = {}
    for episode in dataset.episodes:
        rows = dataset.read(episode)
        content = hashlib.sha256(rows.state.tobytes() + rows.action.tobytes()).digest()
        if rows.state.size and seen.setdefault(content, episode.index) != episode.index:
            repeats[episode.index] = seen[content]
        for feature, values in ((STATE, rows.state), (ACTION, rows.action)):
            finite = values[np.isfinite(values).all(axis=1)].astype(np.float64)
            if not len(finite):
                continue
            low[feature] = np.minimum(low.get(feature, np.inf), finite.min(axis=0))
            high[feature] = np.maximum(high.get(feature, -np.inf), finite.max(axis=0))
            total[feature] = total.get(feature, 0) + finite.sum(axis=0)
            squares[feature] = squares.get(feature, 0) + (finite**2).sum(axis=0)
            frames[feature] = frames.get(feature, 0) + len(finite)
    width = len(dataset.joint_names)
    for feature in (STATE, ACTION):
        if feature not in frames:
            low[feature] = high[feature] = total[feature] = squares[feature] = np.zeros(width)
            frames[feature] = 1
    mean = {feature: total[feature] / frames[feature] for feature in frames}
    std = {feature: np.sqrt(np.maximum(squares[feature] / frames[feature] - mean[feature] ** 2, 0)) for feature in mean}
    return Summary(low, high, mean, std, dataset.stored_statistics(), repeats)


def _judged(name: str, episode: int, limit: Limit, measures: Iterable[Measure]) -> Iterator[Finding]:
    for measure in measures:
        verdict = limit.judge(measure.value)
        if verdict is not None:
            frames = (measure.first_frame, measure.last_frame)
            yield Finding(episode, name, verdict[0], float(measure.value), verdict[1], *frames, measure.detail)


def audit_episode(
    dataset: Dataset, episode: Episode, summary: Summary, limits: Mapping[str, Limit], min_frames: int
) -> list[Finding]:
    """All findings of one episode; each of its videos is decoded once."""
    rows = dataset.read(episode)
    cameras = {camera: trace_camera(dataset, episode, camera) for camera in dataset.cameras}
    audited = AuditedEpisode(episode, rows, cameras, dataset, summary, min_frames)
    with np.errstate(invalid="ignore", over="ignore"):
        return [
            finding
            for name, function in EPISODE_CHECKS.items()
            for finding in _judged(name, episode.index, limits[name], function(audited))
        ]


def audit_dataset(dataset: Dataset, limits: Mapping[str, Limit], min_frames: int, workers: int) -> list[Finding]:
    """All findings, the dataset's own first, then by episode; the order does not depend on ``workers``."""
    from joblib import Parallel, delayed

    summary = summarise(dataset)
    findings = [
        finding
        for name, function in DATASET_CHECKS.items()
        for finding in _judged(name, WHOLE_DATASET, limits[name], function(summary))
    ]
    slim = dataset.for_workers()
    jobs = (delayed(audit_episode)(slim, episode, summary, limits, min_frames) for episode in dataset.episodes)
    made = Parallel(n_jobs=workers, return_as="generator")(jobs)
    for found in track(made, "audit", len(dataset.episodes)):
        findings.extend(found)
    return findings


def choose_episodes(
    dataset: Dataset, findings: Iterable[Finding], listed: Iterable[int], drop_failed: bool
) -> dict[str, Any]:
    """Episodes that later stages use, and the excluded ones with the reason: ``{"used": […], "excluded": {…}}``."""
    excluded = {}
    for episode in listed:
        if not 0 <= episode < len(dataset.episodes):
            raise SigmaError(
                f"params.yaml: audit.exclude: no episode {episode}; legal: 0 to {len(dataset.episodes) - 1}"
            )
        excluded[episode] = "listed in audit.exclude"
    for finding in findings:
        if drop_failed and finding.severity == "fail" and finding.episode != WHOLE_DATASET:
            excluded.setdefault(finding.episode, f"failed {finding.check}")
    used = [episode.index for episode in dataset.episodes if episode.index not in excluded]
    if not used:
        raise SigmaError(f"{dataset.root}: every episode is excluded (params.yaml: audit.exclude, audit.on_failure)")
    return {"used": used, "excluded": {str(episode): excluded[episode] for episode in sorted(excluded)}}


def count_findings(findings: Iterable[Finding], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Failures and warnings in the dataset and in the episodes in use, and findings by check where there are any."""
    relevant = [finding for finding in findings if finding.episode in (WHOLE_DATASET, *chosen["used"])]
    by_check = {name: sum(finding.check == name for finding in relevant) for name in check_names()}
    return {
        "excluded": len(chosen["excluded"]),
        "failures": sum(finding.severity == "fail" for finding in relevant),
        "warnings": sum(finding.severity == "warn" for finding in relevant),
        "checks": {name: count for name, count in by_check.items() if count},
    }
