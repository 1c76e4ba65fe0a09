"""Time, memory and throughput, in files that git ignores: they differ between runs, so no output may hold them."""

import json
import resource
from pathlib import Path
from typing import Any


def record_usage(name: str, seconds: float) -> None:
    """Write ``logs/NAME.json``: seconds, and the peak memory of this process or of its largest child in MiB."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    _write(name, {"stage": name, "seconds": round(seconds, 2), "peak_memory_mib": round(peak / 1024, 1)})


def record_training(name: str, phases: dict[str, list[dict[str, float]]]) -> None:
    """Write ``logs/NAME-training.json``: throughput and memory of each phase, measured at each validation."""
    _write(f"{name}-training", phases)


def _write(name: str, record: dict[str, Any]) -> None:
    folder = Path("logs")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
