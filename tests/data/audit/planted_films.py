"""Faults planted in the pictures of a copy of the embedded dataset, and what the audit has to say of each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests.data.audit.embedded_copy import EMBEDDED, UP, WRIST, copy_embedded


@dataclass(frozen=True)
class FilmFault:
    """A fault of the pictures of one episode: ``show`` takes all cameras' films of the dataset and the step, and gives
    the image of each camera, or none for a frame that is left out.
    """

    words: str
    episode: int
    show: Callable[["Films", int], dict[str, np.ndarray | None]]
    check: str
    severity: str = "fail"
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Films:
    """Every frame of the dataset by camera, uint8 [N, H, W, 3], and where each episode begins and how long it is."""

    frames: dict[str, np.ndarray]
    first: np.ndarray
    length: np.ndarray

    def at(self, episode: int, step: int) -> dict[str, np.ndarray | None]:
        """What the cameras saw."""
        return {camera: frames[self.first[episode] + step] for camera, frames in self.frames.items()}


def _colour(camera: str, level: int, episode: int, last: int, films: Films, step: int) -> dict[str, np.ndarray | None]:
    seen = films.at(episode, step)
    return seen | {camera: np.full_like(seen[camera], level)} if step <= last else seen


def _held(camera: str, episode: int, first: int, films: Films, step: int) -> dict[str, np.ndarray | None]:
    return films.at(episode, step) | {camera: films.at(episode, min(step, first))[camera]}


def _lacking(camera: str, steps: range, episode: int, films: Films, step: int) -> dict[str, np.ndarray | None]:
    return films.at(episode, step) | ({camera: None} if step in steps else {})


def _twins(episode: int, films: Films, step: int) -> dict[str, np.ndarray | None]:
    seen = films.at(episode, step)
    return {UP: seen[UP], WRIST: seen[UP]}


def _exchanged(episode: int, films: Films, step: int) -> dict[str, np.ndarray | None]:
    seen = films.at(episode, step)
    return {UP: seen[WRIST], WRIST: seen[UP]}


def _foreign(episode: int, other: int, films: Films, step: int) -> dict[str, np.ndarray | None]:
    """The film of another episode, as far as it goes."""
    return films.at(episode, step) | {UP: films.at(other, min(step, films.length[other] - 1))[UP]}


EVER = 10**6
FILM_FAULTS = (
    FilmFault("a camera that is black", 10, partial(_colour, UP, 0, 10, EVER), "blank_camera"),
    FilmFault("a camera that is white", 20, partial(_colour, WRIST, 255, 20, EVER), "blank_camera"),
    FilmFault("a camera of one colour for 1 s", 30, partial(_colour, WRIST, 128, 30, 9), "blank_camera", "warn"),
    FilmFault("a camera frozen for 6 s", 36, partial(_held, UP, 36, 12), "frozen_camera"),
    FilmFault("three frames lost", 50, partial(_lacking, WRIST, range(20, 23), 50), "video_length"),
    FilmFault("a camera without a frame", 61, partial(_lacking, WRIST, range(EVER), 61), "missing_camera"),
    FilmFault("one view under both names", 70, partial(_twins, 70), "twin_cameras", also=("swapped_cameras",)),
    FilmFault("two cameras exchanged", 80, partial(_exchanged, 80), "swapped_cameras"),
    FilmFault("the film of another episode", 90, partial(_foreign, 90, 40), "duplicate_video"),
)


def read_films() -> Films:
    """Decode the shipped dataset once."""
    from sigma.data.dataset.dataset import open_dataset
    from sigma.data.dataset.video import decode

    dataset = open_dataset(EMBEDDED)
    length = np.array([episode.length for episode in dataset.episodes])
    frames = {
        camera: np.stack([image for episode in dataset.episodes for _, image in decode(dataset, episode, camera)])
        for camera in dataset.cameras
    }
    return Films(frames, np.concatenate([[0], np.cumsum(length)[:-1]]), length)


def plant_films(folder: Path) -> Path:
    """A copy in whose videos every one of FILM_FAULTS is planted, each in its own episode."""
    import av

    copy_embedded(folder, films=True)
    films, faults = read_films(), {fault.episode: fault for fault in FILM_FAULTS}
    for camera in films.frames:
        path = next((folder / "videos" / camera).rglob("*.mp4"))
        with av.open(str(path), "w") as container:
            stream = container.add_stream("h264", rate=10, options={"crf": "20", "preset": "ultrafast", "g": "10"})
            stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
            for episode, length in enumerate(films.length):
                for step in range(length):
                    show = faults[episode].show if episode in faults else partial(Films.at, episode=episode)
                    image = show(films, step=step)[camera]
                    if image is not None:
                        frame = av.VideoFrame.from_ndarray(image)
                        frame.pts = int(films.first[episode]) + step
                        container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return folder
