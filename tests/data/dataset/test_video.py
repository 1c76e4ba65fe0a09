from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sigma.data.dataset.dataset import open_dataset
from sigma.data.dataset.video import Films, decode
from sigma.shared.errors import SigmaError
from tests.datasets import CAMERAS, camera_image, write_dataset


def test_frames_equal_those_of_lerobot(dataset_folder, dataset):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    theirs = LeRobotDataset("tests/small", root=dataset_folder, video_backend="pyav")
    first = sum(episode.length for episode in dataset.episodes[:4])
    for camera in CAMERAS:
        for step, image in decode(dataset, dataset.episodes[4], camera):
            expected = (theirs[first + step][camera] * 255).round().to(torch.uint8)
            np.testing.assert_array_equal(image, expected.permute(1, 2, 0).numpy())


def test_each_step_has_its_own_frame(dataset):
    episode = dataset.episodes[5]
    decoded = dict(decode(dataset, episode, CAMERAS[1]))
    assert sorted(decoded) == list(range(episode.length))
    for step, image in decoded.items():
        errors = [
            np.abs(image.astype(float) - camera_image(5, other, 1, 48, 64)).mean() for other in range(episode.length)
        ]
        assert int(np.argmin(errors)) == step


def test_chosen_steps_are_those_of_the_whole(dataset):
    episode = dataset.episodes[2]
    whole = dict(decode(dataset, episode, CAMERAS[0]))
    chosen = dict(decode(dataset, episode, CAMERAS[0], [3, 17, 51]))
    assert sorted(chosen) == [3, 17, 51]
    for step, image in chosen.items():
        np.testing.assert_array_equal(image, whole[step])
    assert dict(decode(dataset, episode, CAMERAS[0], [])) == {}


def test_av1_video_is_read(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "av1", lengths=(9, 12), vcodec="libsvtav1"))
    assert [step for step, _ in decode(dataset, dataset.episodes[1], CAMERAS[0])] == list(range(12))


def test_images_in_the_table_are_read_exactly(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "images", lengths=(4, 6), use_videos=False))
    for step, image in decode(dataset, dataset.episodes[1], CAMERAS[1], [0, 5]):
        np.testing.assert_array_equal(image, camera_image(1, step, 1, 48, 64))


def test_file_that_is_no_video_is_named(tmp_path):
    folder = write_dataset(tmp_path / "bad", lengths=(6,))
    path = next((folder / "videos" / CAMERAS[0]).rglob("*.mp4"))
    path.write_bytes(b"no video" * 100)
    dataset = open_dataset(folder)
    with pytest.raises(SigmaError, match=f"{path}: episode 0 cannot be decoded"):
        list(decode(dataset, dataset.episodes[0], CAMERAS[0]))


def test_a_step_after_the_end_of_an_episodes_film_has_no_picture_and_never_the_next_episodes(dataset):
    episode, camera = dataset.episodes[1], CAMERAS[0]
    film = episode.videos[camera]
    lost = replace(episode, videos={camera: replace(film, end=film.end - 1 / dataset.fps)})
    assert [step for step, _ in decode(dataset, lost, camera)] == list(range(episode.length - 1))
    rounded = replace(episode, videos={camera: replace(film, end=film.end - 0.4 / dataset.fps)})
    assert len(list(decode(dataset, rounded, camera))) == episode.length


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Episodes that share one file a camera, and every frame of theirs decoded one episode at a time."""
    found = {}
    for codec in ("h264", "libsvtav1"):
        dataset = open_dataset(write_dataset(tmp_path_factory.mktemp(codec) / "films", (9, 14, 7, 40, 5), vcodec=codec))
        whole = {
            (one.index, camera): dict(decode(dataset, one, camera)) for one in dataset.episodes for camera in CAMERAS
        }
        assert len({segment.path for one in dataset.episodes for segment in one.videos.values()}) == len(CAMERAS)
        found[codec] = dataset, whole
    return found


@pytest.mark.parametrize("codec", ["h264", "libsvtav1"])
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_films_that_stay_open_give_the_same_frames_in_whatever_order_they_are_asked_for(filmed, codec, data):
    dataset, whole = filmed[codec]
    with Films() as films:
        for _ in range(data.draw(st.integers(1, 6))):
            episode = data.draw(st.sampled_from(dataset.episodes))
            camera = data.draw(st.sampled_from(CAMERAS))
            steps = data.draw(st.none() | st.sets(st.integers(0, episode.length - 1)))
            frames = decode(dataset, episode, camera, steps, films)
            if data.draw(st.booleans()):
                got = dict(frames)
                assert sorted(got) == (list(range(episode.length)) if steps is None else sorted(steps))
            else:  # an iteration that is left early
                got = dict(image for image, _ in zip(frames, range(2), strict=False))
            for step, image in got.items():
                np.testing.assert_array_equal(image, whole[episode.index, camera][step])


def test_a_file_is_opened_once_for_episodes_that_follow_each_other(dataset, monkeypatch):
    import av

    opened, read = [], av.open
    monkeypatch.setattr(av, "open", lambda path, **options: opened.append(path) or read(path, **options))
    with Films() as films:
        for episode in dataset.episodes:
            for camera in CAMERAS:
                assert len(list(decode(dataset, episode, camera, films=films))) == episode.length
    files = {str(dataset.root / segment.path) for one in dataset.episodes for segment in one.videos.values()}
    assert sorted(opened) == sorted(files)


def test_after_an_episode_that_cannot_be_decoded_the_file_is_opened_anew(dataset, monkeypatch):
    episode, after = dataset.episodes[:2]
    with Films() as films:
        assert len(list(decode(dataset, episode, CAMERAS[0], films=films))) == episode.length
        upcoming = (after.videos[CAMERAS[0]].start, "no frame")
        monkeypatch.setattr(films._open[CAMERAS[0]], "_upcoming", upcoming)
        with pytest.raises(SigmaError, match="episode 1 cannot be decoded"):
            list(decode(dataset, after, CAMERAS[0], films=films))
        assert len(list(decode(dataset, after, CAMERAS[0], films=films))) == after.length
