"""Decoding the frames of one episode, each camera's file once and in order."""

import io
from collections.abc import Collection, Iterator

import numpy as np

from sigma.data.source import Dataset, Episode
from sigma.errors import SigmaError

# Largest distance of a frame's time from its step's, in frame periods. Containers round to their own time base.
TOLERANCE = 0.1


def decode(
    dataset: Dataset, episode: Episode, camera: str, steps: Collection[int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (step, uint8 [H, W, 3]) for an episode's frames in order; ``steps`` selects some, none means all.

    A frame belongs to the step whose time it has, give or take ``TOLERANCE``; other frames are skipped. Seeking for
    single frames is about forty times slower than one pass, so one pass it is. Raises :class:`SigmaError` where the
    file cannot be decoded; a step that the file does not hold is left out.
    """
    wanted = None if steps is None else frozenset(steps)
    if dataset.cameras[camera].kind == "image":
        yield from _decode_images(dataset, episode, camera, wanted)
    else:
        yield from _decode_video(dataset, episode, camera, wanted)


def _decode_video(
    dataset: Dataset, episode: Episode, camera: str, wanted: frozenset[int] | None
) -> Iterator[tuple[int, np.ndarray]]:
    import av

    segment = episode.videos[camera]
    path = dataset.root / segment.path
    last = episode.length - 1 if wanted is None else max(wanted, default=-1)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SigmaError(f"{path}: no video stream")
            stream = container.streams.video[0]
            # One tick early: a seek to the exact time may land behind the frame that starts there.
            container.seek(round(segment.start / stream.time_base) - 1, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is None:
                    continue
                ticks = (float(frame.pts * stream.time_base) - segment.start) * dataset.fps
                step = round(ticks)
                if step > last:
                    return
                if step >= 0 and abs(ticks - step) <= TOLERANCE and (wanted is None or step in wanted):
                    yield step, frame.to_ndarray(format="rgb24")
    except SigmaError:
        raise
    except Exception as error:  # a file from elsewhere may be broken in any way
        reason = " ".join(str(error).split())
        raise SigmaError(f"{path}: episode {episode.index} cannot be decoded ({reason})") from None


def _decode_images(
    dataset: Dataset, episode: Episode, camera: str, wanted: frozenset[int] | None
) -> Iterator[tuple[int, np.ndarray]]:
    from PIL import Image

    for step, encoded in enumerate(dataset.read_encoded_images(episode, camera)):
        if wanted is not None and step not in wanted:
            continue
        try:
            image = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        except Exception as error:  # broken in any way, or one that unpacks to gigabytes
            path = dataset.root / episode.table
            raise SigmaError(f"{path}: {camera}: episode {episode.index}, step {step}: {error}") from None
        yield step, image
