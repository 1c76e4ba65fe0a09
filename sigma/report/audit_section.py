"""The report's section on the data: the episodes left out, the audit's findings, and pictures of the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sigma.report.figures import joint_trace
from sigma.report.html import data_uri, picture
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_table
from sigma.shared.records import AGAIN, EPISODES, read_record

COUNTS = {
    **dict.fromkeys(
        ("episodes", "frames", "cameras", "excluded", "used", "failures", "warnings"), Annotated[int, Field(ge=0)]
    ),
    "checks": dict,
}
"""``metrics/audit.json``."""
FINDINGS = ("episode", "check", "severity", "value", "threshold", "first_frame", "last_frame", "subject", "detail")
TRACES = ("finding", "state", "action", "joint", "fps")
FRAMES = ("finding", "camera", "step", "jpeg")


@dataclass(frozen=True)
class Audit:
    """What the audit stage wrote: counts, the excluded episodes with their reasons, and its findings in order.

    ``traces`` maps a finding's number to its row of the table of traces, ``frames`` to (camera, step, JPEG).
    """

    counts: dict[str, Any]
    excluded: dict[str, str]
    findings: list[dict[str, Any]]
    traces: dict[int, dict[str, Any]]
    frames: dict[int, list[tuple[str, int, bytes]]]

    @property
    def left_out(self) -> str:
        """A sentence on the excluded episodes, empty where there are none."""
        count = len(self.excluded)
        were = "was" if count == 1 else "were"
        return f"{count} of {self.counts['episodes']} recorded episodes {were} left out by the audit." if count else ""

    def summary(self) -> dict[str, Any]:
        """The counts and the excluded episodes, as JSON."""
        return {**self.counts, "excluded": self.excluded}


def read_audit(data: Path, metrics: Path) -> Audit:
    """Read what the audit stage wrote into these folders; raises :class:`SigmaError` for a file that is missing or
    broken."""
    counts = read_record(metrics / "audit.json", COUNTS)
    excluded = read_record(data / "episodes.json", EPISODES)["excluded"]
    findings = _rows(data / "audit.parquet", FINDINGS)
    traces = {row["finding"]: row for row in _rows(data / "audit_traces.parquet", TRACES)}
    frames: dict[int, list[tuple[str, int, bytes]]] = {}
    for row in _rows(data / "audit_frames.parquet", FRAMES):
        frames.setdefault(row["finding"], []).append((row["camera"], row["step"], row["jpeg"]))
    return Audit(counts, excluded, findings, traces, frames)


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    table = read_table(path)
    for name in columns:
        if table.column_names.count(name) != 1:
            raise SigmaError(f"{path}: column {name!r} is missing; {AGAIN}")
    return table.to_pylist()


def _by_check(findings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each check that found something: failures, warnings, episodes, and its worst finding."""
    rows = []
    for name in dict.fromkeys(finding["check"] for finding in findings):
        of_check = [finding for finding in findings if finding["check"] == name]
        severities = [finding["severity"] for finding in of_check]
        rows.append(
            {
                "check": name,
                "failures": severities.count("fail"),
                "warnings": severities.count("warn"),
                "episodes": len({finding["episode"] for finding in of_check if finding["episode"] >= 0}),
                # A value that is NaN counts as the worst of its severity.
                "worst": max(
                    of_check, key=lambda row: (row["severity"] == "fail", not row["value"] <= np.inf, row["value"])
                ),
            }
        )
    return sorted(rows, key=lambda row: -row["failures"])


def _shown(audit: Audit) -> list[dict[str, Any]]:
    """The findings that have a picture, failures first."""
    shown = []
    for number, finding in enumerate(audit.findings):
        trace, drawn = audit.traces.get(number), None
        if trace is not None:
            state, action = (np.array(trace[name], dtype=np.float64) for name in ("state", "action"))
            span = finding["first_frame"], finding["last_frame"]
            drawn = picture(joint_trace(state, action, trace["joint"], trace["fps"], span))
        films: dict[str, list[tuple[int, str]]] = {}
        for camera, step, jpeg in audit.frames.get(number, []):
            films.setdefault(camera, []).append((step, data_uri("image/jpeg", jpeg)))
        if drawn or films:
            shown.append({**finding, "trace": drawn, "films": films})
    return sorted(shown, key=lambda row: row["severity"] != "fail")


def audit_section(audit: Audit) -> dict[str, Any]:
    """What the page shows about the data, with pictures as data URIs."""
    return {
        "counts": audit.counts,
        "excluded": audit.excluded,
        "checks": _by_check(audit.findings),
        "shown": _shown(audit),
    }
