"""Look for faults in the dataset, episode by episode, and decide which episodes later stages use."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from sigma.parameters import Section

DATASET = Path("data/dataset")
METRICS, TABLE, EPISODES = Path("metrics/audit.json"), Path("data/audit.parquet"), Path("data/episodes.json")


class LimitParameters(Section):
    """A measure above ``fail`` is a failure, above ``warn`` a warning; null switches that level off."""

    warn: float | None = Field(ge=0)
    fail: float | None = Field(ge=0)

    @field_validator("fail")
    @classmethod
    def _fail_not_below_warn(cls, fail: float | None, info: ValidationInfo) -> float | None:
        warn = info.data.get("warn")
        if fail is not None and warn is not None and fail < warn:
            raise ValueError(f"must not be below warn ({warn:g})")
        return fail


class CheckLimits(Section):
    stale_statistics: LimitParameters
    row_count: LimitParameters
    row_order: LimitParameters
    short_episode: LimitParameters
    non_finite: LimitParameters
    timestamp_gap: LimitParameters
    missing_task: LimitParameters
    duplicate_episode: LimitParameters
    frozen_state: LimitParameters
    dead_joint: LimitParameters
    saturated_joint: LimitParameters
    jump: LimitParameters
    video_length: LimitParameters
    image_size: LimitParameters
    blank_camera: LimitParameters
    frozen_camera: LimitParameters


class AuditParameters(Section):
    on_failure: Literal["stop", "exclude", "keep"]
    exclude: tuple[int, ...] = Field(strict=False)
    min_frames: int = Field(ge=1, le=100000)
    limits: CheckLimits


SECTIONS: dict[str, type[Section]] = {"audit": AuditParameters}


def run(parameters: dict[str, Section]) -> str:
    """Write ``metrics/audit.json``, ``data/audit.parquet`` and ``data/episodes.json``; returns the line to print.

    Raises :class:`SigmaError` after writing them where ``audit.on_failure`` is ``stop`` and a check failed.
    """
    import pyarrow

    from sigma.data.audit import Finding, Limit, audit_dataset, choose_episodes, count_findings
    from sigma.data.source import open_dataset
    from sigma.errors import SigmaError
    from sigma.io import write_json, write_table

    section: AuditParameters = parameters["audit"]
    dataset = open_dataset(DATASET)
    limits = {name: Limit(limit.warn, limit.fail) for name, limit in section.limits}
    findings = audit_dataset(dataset, limits, section.min_frames, parameters["machine"].workers)
    chosen = choose_episodes(dataset, findings, section.exclude, drop_failed=section.on_failure == "exclude")
    counts = count_findings(findings, chosen)
    columns = {name: [getattr(finding, name) for finding in findings] for name in Finding.__dataclass_fields__}
    write_table(TABLE, pyarrow.table(columns, schema=Finding.schema()))
    write_json(EPISODES, chosen)
    write_json(METRICS, {"episodes": len(dataset.episodes), "frames": dataset.frames, **counts})
    failed = [
        finding for finding in findings if finding.severity == "fail" and finding.episode in (-1, *chosen["used"])
    ]
    if failed and section.on_failure == "stop":
        first = failed[0]
        where = "dataset" if first.episode < 0 else f"episode {first.episode}"
        raise SigmaError(
            f"{DATASET}: audit: {len(failed)} failures in the episodes in use; first: {first.check} in {where}: "
            f"{first.value:g} > {first.threshold:g} ({first.detail}). See {TABLE}; list episodes in params.yaml: "
            "audit.exclude, or set audit.on_failure to exclude or keep"
        )
    return (
        f"audit: {len(dataset.episodes)} episodes, {counts['failures']} failures, {counts['warnings']} warnings, "
        f"{len(chosen['excluded'])} episodes excluded"
    )
