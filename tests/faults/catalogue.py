"""All faults by group, and the table of them that stands in README.md."""

from pathlib import Path

from tests.faults import in_dataset, in_files, in_hostile, in_parameters, in_predictions, in_shards, in_weights
from tests.faults.case import Fault

GROUPS: dict[str, list[Fault]] = {
    "Dataset and video": in_dataset.FAULTS,
    "Shards": in_shards.FAULTS,
    "Weights": in_weights.FAULTS,
    "Predictions and calibration": in_predictions.FAULTS,
    "Parameters and environment": in_parameters.FAULTS,
    "Files": in_files.FAULTS,
    "Hostile inputs": in_hostile.FAULTS,
}
README = Path(__file__).with_name("README.md")

_HEAD = """# Faults

Each row is a fault that a test plants in a small finished project, the command that runs next, and how that command
must end: in one line that names the cause, with status 1, without a traceback, and with every output as it was; or in
the recovery that is named. `test_matrix.py` plants each of them. In a line, … stands for anything; each line begins
with `sigma: error:`. `python -m tests.faults` writes this page.

"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _row(fault: Fault) -> str:
    ending = f"goes on: {fault.recovers}" if fault.recovers else f"`{fault.line}`"
    if fault.writes and not fault.recovers:
        ending += f" (and writes {', '.join(f'`{name}`' for name in fault.writes)})"
    return f"| {_cell(fault.what)} | `{fault.command}` | {_cell(ending)} |"


def table() -> str:
    """The whole of README.md."""
    every = [fault for faults in GROUPS.values() for fault in faults]
    recovered = sum(bool(fault.recovers) for fault in every)
    text = _HEAD + f"{len(every)} faults: {len(every) - recovered} end in an error, {recovered} in a recovery.\n"
    for group, faults in GROUPS.items():
        text += f"\n## {group}\n\n| fault | `sigma` | ends in |\n| --- | --- | --- |\n"
        text += "".join(f"{_row(fault)}\n" for fault in faults)
    return text
