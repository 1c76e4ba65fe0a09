"""Videos and contact sheets: chosen by seed, readable, and the same bytes again."""

import av
import numpy as np
import pytest
from PIL import Image

from sigma.simulation.episode import RolloutResult
from sigma.simulation.videos import SHEET_COLUMNS, Film, choose, film, write_films


def result(seed: int, success: bool) -> RolloutResult:
    failure = None if success else "dropped"
    return RolloutResult(seed, "lift the cube", success, 1.0, False, 30, failure, 3, 4, np.zeros((30, 6), np.float32))


def test_the_lowest_seeds_of_both_outcomes_are_chosen():
    results = [result(seed, seed % 3 == 0) for seed in (9, 1, 3, 2, 6, 4)]
    assert [one.seed for one in choose(results, 2)] == [3, 6, 1, 2]
    assert [one.seed for one in choose(results[:1], 2)] == [9]
    assert choose(results, 0) == []


def moving(size: int = 32, steps: int = 12) -> dict[str, np.ndarray]:
    views = np.zeros((steps, size, size, 3), np.uint8)
    for step in range(steps):
        views[step, :, 2 * step : 2 * step + 8] = (255, 0, 0)
    return {"up": views, "wrist": np.full_like(views, 90)}


@pytest.fixture
def films() -> list[Film]:
    return [film(result(3, True), moving()), film(result(1, False), moving())]


def test_a_video_shows_both_cameras_frame_by_frame(tmp_path, films):
    write_films(tmp_path / "videos", films)
    assert sorted(file.name for file in (tmp_path / "videos").iterdir()) == [
        "contact_sheet.png",
        "failure-1.mp4",
        "success-3.mp4",
    ]
    with av.open(str(tmp_path / "videos/success-3.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == 10
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 12
    for step, frame in enumerate(frames):
        up, wrist = frame[-32:, :32].astype(int), frame[-32:, 32:].astype(int)
        red = up[16, :, 0] - up[16, :, 1]
        assert red[2 * step : 2 * step + 8].min() > 100 > red[: 2 * step].max(initial=0)
        assert np.abs(wrist - 90).max() < 20


def test_the_sheet_has_a_row_an_episode_and_a_column_a_time(tmp_path, films):
    write_films(tmp_path / "videos", films)
    sheet = np.asarray(Image.open(tmp_path / "videos/contact_sheet.png"))
    assert sheet.shape[1] == SHEET_COLUMNS * 64
    last_row = sheet[-32:]
    assert tuple(last_row[16, 4]) == (255, 0, 0), "the first frame is the first column"
    assert tuple(last_row[16, (SHEET_COLUMNS - 1) * 64 + 2 * 11 + 4]) == (255, 0, 0), "the last frame is the last"


def test_equal_episodes_give_equal_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 48, 3), dtype=np.uint8)
    films = [film(result(3, True), {"up": noise})]
    seen = set()
    for _ in range(30):  # an encoder that differs now and then would differ in a few of these
        write_films(tmp_path / "videos", films)
        seen.add(tuple(file.read_bytes() for file in sorted((tmp_path / "videos").iterdir())))
    assert len(seen) == 1


def test_no_episode_leaves_an_empty_folder(tmp_path):
    write_films(tmp_path / "videos", [])
    assert list((tmp_path / "videos").iterdir()) == []
