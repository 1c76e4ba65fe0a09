"""Time and memory of a command, in an ignored file: they differ from run to run and must not enter an output."""

import json
import resource
from pathlib import Path


def record_usage(name: str, seconds: float) -> None:
    """Write ``logs/NAME.json``: seconds, and the peak memory of this process or of its largest child in MiB."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    folder = Path("logs")
    folder.mkdir(exist_ok=True)
    record = {"stage": name, "seconds": round(seconds, 2), "peak_memory_mib": round(peak / 1024, 1)}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
