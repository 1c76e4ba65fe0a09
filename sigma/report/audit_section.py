"""The report's section on the data: the episodes left out, the audit's findings, and pictures of the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma.report.audit_figures import joint_trace
from sigma.report.html import data_uri, picture
from sigma.shared.errors import SigmaError
from sigma.shared.files import read_table
from sigma.shared.records import AGAIN, EPISODES, read_record

COUNTS = {
    **dict.fromkeys(("episodes", "frames", "cameras", "excluded", "used", "failures", "warnings"), int),
    "checks": dict,
}
"""``metrics/audit.json``."""
FINDINGS = ("episode", "check", "severity", "value", "threshold", "first_frame", "last_frame", "subject", "detail")
TRACES = ("finding", "state", "action", "joint", "fps")
FRAMES = ("finding", "camera", "step", "jpeg")


@dataclass(frozen=True)
class Audit:
    """What the audit stage wrote: counts, the chosen and the excluded episodes, and its findings in order.

    ``traces`` maps a finding's number to its row of the table of traces, ``frames`` to (camera, step, JPEG).
    """

    counts: dict[str, Any]
    chosen: dict[str, Any]
    findings: list[dict[str, Any]]
    traces: dict[int, dict[str, Any]]
    frames: dict[int, list[tuple[str, int, bytes]]]

    @property
    def left_out(self) -> str:
        """A sentence on the excluded episodes, empty where there are none."""
        excluded, recorded = len(self.chosen["excluded"]), self.counts["episodes"]
        were = "was" if excluded == 1 else "were"
        return f"{excluded} of {recorded} recorded episodes {were} left out by the audit." if excluded else ""

    def summary(self) -> dict[str, Any]:
        """The counts and the excluded episodes, as JSON."""
        return {**self.counts, "excluded": self.chosen["excluded"]}


def read_audit(counts: Path, episodes: Path, findings: Path, traces: Path, frames: Path) -> Audit:
    """Read the five files of the audit stage; raises :class:`SigmaError` for one that is missing or broken."""
    counted, chosen = read_record(counts, COUNTS), read_record(episodes, EPISODES)
    for key in (key for key, form in COUNTS.items() if form is int):
        if counted[key] < 0:
            raise SigmaError(f"{counts}: {key}: found {counted[key]}; legal: a count; {AGAIN}")
    pictures: dict[int, list[tuple[str, int, bytes]]] = {}
    for row in _rows(frames, FRAMES):
        pictures.setdefault(row["finding"], []).append((row["camera"], row["step"], row["jpeg"]))
    drawn = {row["finding"]: row for row in _rows(traces, TRACES)}
    return Audit(counted, chosen, _rows(findings, FINDINGS), drawn, pictures)


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    table = read_table(path)
    for name in columns:
        if table.column_names.count(name) != 1:
            raise SigmaError(f"{path}: column {name!r} is missing; {AGAIN}")
    return table.to_pylist()


def by_check(findings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each check that found something: failures, warnings, episodes, and its worst finding."""
    rows = []
    for name in dict.fromkeys(finding["check"] for finding in findings):
        found = [finding for finding in findings if finding["check"] == name]
        # A value that is NaN counts as the worst of its severity.
        worst = max(found, key=lambda row: (row["severity"] == "fail", not row["value"] <= np.inf, row["value"]))
        rows.append(
            {
                "check": name,
                "failures": sum(finding["severity"] == "fail" for finding in found),
                "warnings": sum(finding["severity"] == "warn" for finding in found),
                "episodes": len({finding["episode"] for finding in found if finding["episode"] >= 0}),
                "worst": worst,
            }
        )
    return sorted(rows, key=lambda row: -row["failures"])


def _shown(audit: Audit) -> list[dict[str, Any]]:
    """The findings that have a picture, failures first."""
    shown = []
    for number, finding in enumerate(audit.findings):
        trace, frames = audit.traces.get(number), audit.frames.get(number, [])
        if trace is None and not frames:
            continue
        drawn = None
        if trace is not None:
            state, action = (np.array(trace[name], dtype=np.float64) for name in ("state", "action"))
            span = finding["first_frame"], finding["last_frame"]
            drawn = picture(joint_trace(state, action, trace["joint"], trace["fps"], span))
        films: dict[str, list[tuple[int, str]]] = {}
        for camera, step, jpeg in frames:
            films.setdefault(camera, []).append((step, data_uri("image/jpeg", jpeg)))
        shown.append({**finding, "trace": drawn, "films": films})
    return sorted(shown, key=lambda row: row["severity"] != "fail")


def audit_section(audit: Audit) -> dict[str, Any]:
    """What the page shows about the data, with pictures as data URIs."""
    return {
        "counts": audit.counts,
        "excluded": audit.chosen["excluded"],
        "checks": by_check(audit.findings),
        "shown": _shown(audit),
    }
