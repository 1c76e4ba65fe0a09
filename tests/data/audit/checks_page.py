"""``sigma/data/audit/README.md``: every check with its reason and its limits, and what the audit finds of each planted fault.

``python -m tests.data.audit.checks_page`` writes it anew; the tests hold the committed page to the code.
"""

from collections.abc import Mapping
from pathlib import Path

from sigma.compute.workers import Workers
from sigma.data.audit.findings import CHECKS, VIDEO_CHECKS, Limit, audit_dataset
from sigma.data.audit.measures import Settings
from sigma.data.dataset.dataset import open_dataset
from tests.data.audit.embedded_copy import EMBEDDED, shipped_limits
from tests.data.audit.planted import FAULTS, FILE_FAULTS
from tests.data.audit.planted_films import FILM_FAULTS
from tests.imports import ROOT

PAGE = ROOT / "sigma/data/audit/README.md"
SETTINGS = Settings(16, -100.0, 100.0)
# Why the default limits are where they are.
REASONS = {
    "stale_statistics": "float32 rounding moves a mean by less than 0.1 %; 1 % of a joint's range is other data",
    "frame_total": "a count: any difference is a fault",
    "wrong_type": "another type may still hold the values: a warning; what cannot be read fails",
    "row_count": "a count: any difference is a fault",
    "video_span": "seconds are rounded to half a frame at most; from one whole frame on it is another episode's",
    "short_episode": "warns only: an episode shorter than a horizon can still be trained on, padded",
    "row_order": "a count: any row out of place is a fault",
    "index_gap": "a count: any number left out is a fault",
    "non_finite": "a count: one value spoils statistics and losses",
    "timestamp_order": "a count: time never stands still",
    "timestamp_gap": "a twentieth of a step is jitter of a good clock; half a step is the next frame",
    "clock_rate": "1 % is three frames in ten seconds at 30 Hz; at 20 % a horizon of 16 steps ends three steps off",
    "missing_task": "a share: no frame may be without an instruction",
    "unknown_task": "a share: no frame may have an unlisted task",
    "duplicate_episode": "a rest pose at both ends takes up to a third of a short episode; four fifths are a copy",
    "frozen_state": "half a second is a window's first third at 10 Hz; 2 s are longer than its horizon of 1.6 s",
    "frozen_action": "an arm settles within a second of its last command; after 3 s something else moved it",
    "dead_joint": "2 % is play of a joint that holds; commanded half its range it has to have moved",
    "saturated_joint": "warns only: a closed gripper sits at its stop; a third of an episode is worth a look",
    "jump": "half a joint's range in one step is the fastest that a gripper opens at 10 Hz; nine tenths is no motion",
    "action_jump": "as for jump: what is commanded in one step an arm must be able to follow",
    "diverging_action": "arms follow within 7 %; a tenth is an offset worth calibrating, three tenths another pose",
    "time_shift": "a frame more or less is jitter; from the fourth frame on a chunk of 8 begins in its own middle",
    "outside_range": "a controller overshoots a stop by a hundredth; a wrist's roll in degrees goes to 160",
    "small_values": "an arm at work leaves the inner fifth of its range; radians stay within the inner thirtieth",
    "unit_mismatch": "a gripped object and lag change a spread by up to a half; radians by more than 30",
    "undecodable_video": "a count: the window stage would stop there",
    "missing_camera": "yes or no",
    "video_length": "a count: the window stage would stop there",
    "image_size": "a count: sizes are declared",
    "blank_camera": "any blank frame is worth a look; without half of its frames an episode teaches acting blindly",
    "frozen_camera": "five frames at 10 Hz are a hiccup; 2 s are longer than a window's horizon of 1.6 s",
    "twin_cameras": "half way between equal pictures and pictures 10 grey levels apart in their most different block",
    "swapped_cameras": "pictures stay within a fifth of the way; beyond the middle it is the other camera's",
    "duplicate_video": "two recordings are 5 times farther apart than the scale reaches; a copy keeps over four fifths",
}


def worst_values() -> dict[str, float]:
    """The largest value that each check measures on the embedded data; absent where it has nothing to measure."""
    all_of_them = {name: Limit(None, -1.0) for name in CHECKS}
    worst: dict[str, float] = {}
    for one in audit_dataset(open_dataset(EMBEDDED), all_of_them, SETTINGS, workers=Workers(1)):
        worst[one.check] = max(worst.get(one.check, 0.0), one.value)
    return worst


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _check_rows(worst: Mapping[str, float]) -> list[str]:
    rows = []
    for name, check in CHECKS.items():
        limit, words = shipped_limits()[name], " ".join(check.__doc__.split()).replace("``", "`").replace("|", "\\|")
        seen = _number(round(worst.get(name, 0.0), 3))
        rows.append(
            f"| `{name}` | {words} | {_number(limit.warn)} | {_number(limit.fail)} | {seen} | {REASONS[name]} |"
        )
    return rows


def _fault_rows() -> list[str]:
    rows = []
    for fault in (*FAULTS, *FILE_FAULTS, *FILM_FAULTS):
        also = ", ".join(f"`{name}`" for name in fault.also) or "–"
        rows.append(f"| {fault.words} | `{fault.check}` | {fault.severity} | {also} |")
    return rows


def page(worst: Mapping[str, float]) -> str:
    """The page as Markdown; ``worst`` are the largest values on the embedded data."""
    films = len(VIDEO_CHECKS)
    return "\n".join(
        [
            "# What the audit looks for",
            "",
            f"{len(CHECKS)} checks: {len(CHECKS) - films} read the tables, {films} the videos. Limits are those of the "
            "shipped `params.yaml` (`audit.limits`); a value above *fail* is a failure, one above *warn* a warning. "
            "*Embedded* is the largest value on the shipped data. A joint's range is that between its 1 % and 99 % "
            "quantiles over the dataset.",
            "",
            "| check | what it measures and why | warn | fail | embedded | why these limits |",
            "| --- | --- | --- | --- | --- | --- |",
            *_check_rows(worst),
            "",
            "# What it finds",
            "",
            "Each fault is planted in a copy of the shipped data, alone in its episode. Tests plant it and hold the "
            "audit to this table.",
            "",
            "| fault | worst finding | severity | found too |",
            "| --- | --- | --- | --- |",
            *_fault_rows(),
            "",
            "What cannot be laid at one episode's door is refused in one line by the reader instead: another format "
            "version, a missing or unreadable file, a table without `episode_index`, a gap in the episodes' numbers, a "
            "camera without a place in a video file, state and action of different length.",
            "",
        ]
    )


if __name__ == "__main__":
    Path(PAGE).write_text(page(worst_values()), encoding="utf-8")
