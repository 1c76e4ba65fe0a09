"""Pictures of episodes for people: short videos and a contact sheet, with the same bytes every time.

Legend: N frames, H×W size of a view in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from sigma.shared.files import atomic_directory
from sigma.simulation.episode import RolloutResult
from sigma.simulation.scene import CONTROL_HZ

_LINE = 16  # pixels a line of text takes
SHEET_COLUMNS = 6


@dataclass(frozen=True)
class Film:
    """One episode's frames, uint8 [N, H, W, 3], and what to say of it."""

    name: str
    caption: str
    frames: np.ndarray


def choose(results: Sequence[RolloutResult], count: int) -> list[RolloutResult]:
    """The successes and then the failures of the lowest seeds, ``count`` of each where there are as many."""
    ordered = sorted(results, key=lambda result: result.seed)
    successes, failures = ([result for result in ordered if result.success is success] for success in (True, False))
    return successes[:count] + failures[:count]


def film(result: RolloutResult, views: Mapping[str, np.ndarray]) -> Film:
    """The film of an episode, with the cameras' views ``[N, H, W, 3]`` side by side."""
    outcome = "success" if result.success else "failure"
    seconds = result.steps / CONTROL_HZ
    caption = f"seed {result.seed}, {result.instruction}: {result.failure or outcome} after {seconds:.1f} s"
    return Film(f"{outcome}-{result.seed}", caption, np.concatenate(list(views.values()), axis=2))


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture under a line of text."""
    height, width = picture.shape[:2]
    whole = Image.new("RGB", (width, height + _LINE), "white")
    ImageDraw.Draw(whole).text((3, 2), text, fill="black")
    whole.paste(Image.fromarray(picture), (0, _LINE))
    return np.asarray(whole)


def write_video(path: Path, film: Film) -> None:
    """H.264 in MP4, as fast as the robot was; H and W must be even."""
    # With the encoder's lookahead, and with frames that it converts itself, 4 files in 100 had other bytes.
    options = {"crf": "26", "preset": "medium", "x264-params": "no-mbtree=1:rc-lookahead=0"}
    av.logging.set_libav_level(av.logging.ERROR)  # else the encoder prints a page for every video
    with av.open(str(path), "w", format="mp4") as container:
        height, width = film.frames.shape[1:3]
        stream = container.add_stream("libx264", rate=CONTROL_HZ, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height + _LINE, "yuv420p"
        stream.thread_count = 1  # slices, and with them the bytes, would follow the number of cores
        for frame in film.frames:
            picture = av.VideoFrame.from_ndarray(_captioned(frame, film.caption), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode())


def contact_sheet(films: Sequence[Film]) -> Image.Image:
    """One row an episode, one column a time, evenly spaced from first frame to last."""
    rows = []
    for film in films:
        times = np.linspace(0, len(film.frames) - 1, SHEET_COLUMNS).round().astype(int)
        rows.append(_captioned(np.concatenate(film.frames[times], axis=1), film.caption))
    return Image.fromarray(np.concatenate(rows, axis=0))


def write_films(folder: Path, films: Sequence[Film]) -> None:
    """``NAME.mp4`` of each film and ``contact_sheet.png``; the folder replaces what was there."""
    with atomic_directory(folder) as temporary:
        for film in films:
            write_video(temporary / f"{film.name}.mp4", film)
        if films:
            contact_sheet(films).save(temporary / "contact_sheet.png", optimize=True)
