"""What the report draws of the worst findings: joint traces and camera frames, so that it needs no dataset."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sigma.data.audit.findings import Finding
from sigma.data.audit.limits import VIDEO_CHECKS
from sigma.data.audit.measures import WHOLE_DATASET
from sigma.data.audit.rows import StoredRows, read_tables
from sigma.data.dataset.dataset import Dataset
from sigma.data.dataset.video import decode
from sigma.shared.errors import SigmaError

# The longer side of a stored frame, in pixels.
SIDE = 192
TRACES = pa.schema(
    [("finding", pa.int64()), ("joint", pa.string()), ("fps", pa.int64())]
    + [(name, pa.list_(pa.float32())) for name in ("state", "action")]
)
FRAMES = pa.schema([("finding", pa.int64()), ("camera", pa.string()), ("step", pa.int64()), ("jpeg", pa.binary())])


def choose_findings(findings: Sequence[Finding], count: int) -> list[int]:
    """Indices of the findings to show: the worst of each check first, then the second worst of each, and so on."""
    taken: Counter[str] = Counter()
    rounds: dict[int, tuple[bool, int]] = {}
    for number in sorted(range(len(findings)), key=lambda number: findings[number].rank):
        finding = findings[number]
        taken[finding.check] += 1
        rounds[number] = finding.severity != "fail", taken[finding.check]
    return sorted(rounds, key=lambda number: rounds[number])[:count]


def _is_filmed(finding: Finding, dataset: Dataset) -> bool:
    return finding.subject in dataset.cameras or finding.check in VIDEO_CHECKS


def _trace(finding: Finding, rows: StoredRows, joints: Sequence[str]) -> tuple[str, np.ndarray, np.ndarray]:
    """The joint that the finding names, else the one that moves most; its state and its action, each [n]."""
    if finding.subject in joints:
        joint = joints.index(finding.subject)
    else:
        joint = int(np.nan_to_num(np.ptp(np.nan_to_num(rows.action), axis=0)).argmax())
    return joints[joint], rows.state[:, joint], rows.action[:, joint]


def traces_table(dataset: Dataset, findings: Sequence[Finding], shown: Sequence[int]) -> pa.Table:
    """State and action of one joint over the episode, for each shown finding that concerns rows that can be read."""
    traces = []
    rows_of = read_tables(dataset).rows if shown else {}
    for number in shown:
        finding = findings[number]
        if finding.episode == WHOLE_DATASET or _is_filmed(finding, dataset):
            continue
        rows = rows_of[finding.episode]
        if rows.readable and rows.count:
            joint, state, action = _trace(finding, rows, dataset.joint_names)
            traces.append({"finding": number, "joint": joint, "fps": dataset.fps, "state": state, "action": action})
    return pa.Table.from_pylist(traces, schema=TRACES)


def _steps(finding: Finding, length: int) -> list[int]:
    """The frame before the fault, and its first, middle and last frame; a fault without frames is the whole episode."""
    first, last = finding.first_frame, finding.last_frame
    if first < 0:
        first, last = 0, length - 1
    return sorted({step for step in (first - 1, first, (first + last) // 2, last) if 0 <= step < length})


def _jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _frames(dataset: Dataset, finding: Finding) -> Iterator[dict[str, Any]]:
    """Frames of the camera that the finding names, else of all cameras."""
    episode = dataset.episodes[finding.episode]
    for camera in (finding.subject,) if finding.subject in dataset.cameras else dataset.cameras:
        try:
            for step, image in decode(dataset, episode, camera, _steps(finding, episode.length)):
                yield {"camera": camera, "step": step, "jpeg": _jpeg(image)}
        except SigmaError:
            # The finding itself says that decoding broke off; the page shows the frames before that.
            continue


def frames_table(dataset: Dataset, findings: Sequence[Finding], shown: Sequence[int]) -> pa.Table:
    """A few frames for each shown finding that concerns a camera."""
    frames: list[dict[str, Any]] = []
    for number in shown:
        finding = findings[number]
        if finding.episode != WHOLE_DATASET and _is_filmed(finding, dataset):
            frames += [{"finding": number, **frame} for frame in _frames(dataset, finding)]
    return pa.Table.from_pylist(frames, schema=FRAMES)
